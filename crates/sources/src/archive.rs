//! Untrusted archives: tar, tar.gz, tar.zst and zip.
//!
//! Only plain files are unpacked. A path that leads out, a link, a device, a path that comes twice, too many files or
//! too many bytes end the pull; nothing of the archive is used then.

use crate::adapters::{Limits, too_large, too_many};
use crate::arrange::path_fault;
use crate::error::Error;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use structured_zstd::decoding::{ContentChecksum, FrameDecoder, StreamingDecoder};

/// The format of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A tar archive without compression.
    Tar,
    /// A tar archive, compressed with gzip.
    TarGz,
    /// A tar archive, compressed with zstd (RFC 8878).
    TarZst,
    /// A zip archive, with its directory at the end.
    Zip,
}

/// Bytes of a tar archive for headers and padding of each file.
const TAR_OVERHEAD: u64 = 4096;
/// The largest window of zstd in bytes: the limit of the `zstd` program, which `--long` without a number uses as well.
/// A window is memory that an archive asks for.
const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// Returns the format of an archive, by its first bytes; `None` for any other file.
pub fn form(path: &Path) -> std::io::Result<Option<Form>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head)?;
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Some(Form::TarGz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Form::TarZst),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Form::Zip),
        head if head.get(257..262) == Some(b"ustar") => Some(Form::Tar),
        _ => None,
    })
}

/// Takes each unpacked file: its path and its bytes.
pub type Sink<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<u64, Error> + 'a;

/// Gives each file to `sink`, which says how many bytes it read.
pub fn unpack(path: &Path, form: Form, limits: Limits, sink: &mut Sink<'_>) -> Result<(), Error> {
    let file = File::open(path).map_err(|e| Error::io("open the archive", e))?;
    let mut out = Out {
        limits,
        left: limits.bytes,
        seen: BTreeSet::new(),
        sink,
    };
    match form {
        Form::Tar => tar(BufReader::new(file), &mut out),
        Form::TarGz => tar(
            flate2::read::MultiGzDecoder::new(BufReader::new(file)),
            &mut out,
        ),
        Form::TarZst => tar(unzstd(BufReader::new(file))?, &mut out),
        Form::Zip => zip(file, &mut out),
    }
}

/// Decodes all frames of a stream. Its window is bounded, and so is the output, by [`tar`].
fn unzstd(from: impl Read) -> Result<impl Read, Error> {
    let mut decoder = FrameDecoder::new();
    decoder.set_content_checksum(ContentChecksum::Verify);
    decoder
        .set_max_window_size(MAX_WINDOW_BYTES)
        .map_err(broken)?;
    Ok(StreamingDecoder::new_with_decoder(from, decoder))
}

struct Out<'a, 'b> {
    limits: Limits,
    left: u64,
    seen: BTreeSet<String>,
    sink: &'a mut Sink<'b>,
}

impl Out<'_, '_> {
    fn file(&mut self, path: &str, from: &mut dyn Read) -> Result<(), Error> {
        let path = path.strip_prefix("./").unwrap_or(path);
        let shown: String = path
            .chars()
            .take(100)
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        if let Some(fault) = path_fault(path) {
            return Err(Error::refused(format!(
                "the archive has a file `{shown}`, which is not accepted: {fault}"
            )));
        }
        // On a case-insensitive file system one would overwrite the other.
        if !self.seen.insert(path.to_lowercase()) {
            return Err(Error::refused(format!("the archive has `{shown}` twice")));
        }
        if self.seen.len() > self.limits.files {
            return Err(too_many(self.limits));
        }
        let mut bounded = from.take(self.left.saturating_add(1));
        let count = (self.sink)(path, &mut bounded)?;
        self.left = match self.left.checked_sub(count) {
            Some(left) => left,
            None => return Err(too_large(self.limits)),
        };
        Ok(())
    }
}

fn broken(e: impl std::fmt::Display) -> Error {
    Error::refused(format!("the archive cannot be read: {e}"))
}

fn tar(from: impl Read, out: &mut Out<'_, '_>) -> Result<(), Error> {
    // Skipping entries costs time, too.
    let overhead = TAR_OVERHEAD.saturating_mul(out.limits.files as u64 + 16);
    let most = out.limits.bytes.saturating_add(overhead);
    let mut archive = ::tar::Archive::new(from.take(most));
    let mut entries = 0usize;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        entries += 1;
        // Folders are entries, too.
        if entries > out.limits.files.saturating_mul(4) {
            return Err(too_many(out.limits));
        }
        let kind = entry.header().entry_type();
        let path = entry.path_bytes().into_owned();
        let path = String::from_utf8(path).map_err(|_| broken("a path in it is not UTF-8"))?;
        match kind {
            ::tar::EntryType::Regular | ::tar::EntryType::Continuous => {
                out.file(&path, &mut entry)?
            }
            ::tar::EntryType::Directory | ::tar::EntryType::XGlobalHeader => {}
            ::tar::EntryType::GNUSparse => {
                return Err(broken("it has sparse files; pack it without them"));
            }
            _ => {
                let shown: String = path.chars().take(100).filter(|c| !c.is_control()).collect();
                return Err(Error::refused(format!(
                    "the archive has `{shown}`, which is a link or a device; only files and folders are accepted"
                )));
            }
        }
    }
    Ok(())
}

fn zip(mut file: File, out: &mut Out<'_, '_>) -> Result<(), Error> {
    file.seek(SeekFrom::Start(0)).map_err(broken)?;
    let mut archive = ::zip::ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    if archive.len() > out.limits.files.saturating_mul(4) {
        return Err(too_many(out.limits));
    }
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).map_err(broken)?;
        let path = entry.name().map_err(broken)?.into_owned();
        if entry.is_dir() {
            continue;
        }
        // The upper half of the mode is the kind of file; 0 if the archive does not give it.
        let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
        if kind != 0 && kind != 0o100_000 {
            return Err(Error::refused(format!(
                "the archive has `{}`, which is a link or a device; only files and folders are accepted",
                path.chars()
                    .take(100)
                    .filter(|c| !c.is_control())
                    .collect::<String>()
            )));
        }
        out.file(&path, &mut entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

    const LIMITS: Limits = Limits {
        bytes: 100_000,
        files: 8,
    };

    fn kept(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let file = kept(bytes);
        let form = form(file.path()).unwrap().ok_or("not an archive")?;
        let mut files = Vec::new();
        let mut sink = |path: &str, from: &mut dyn Read| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map_err(broken)?;
            let count = bytes.len() as u64;
            files.push((path.to_owned(), bytes));
            Ok(count)
        };
        unpack(file.path(), form, LIMITS, &mut sink).map_err(|e| e.message)?;
        Ok(files)
    }

    /// A tar archive with unchecked names, as an attacker writes it.
    fn tar_of(entries: &[(&[u8], ::tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, kind, body) in entries {
            let mut header = ::tar::Header::new_ustar();
            header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(*kind);
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(body);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        let mut encoder: FrameCompressor<&[u8], Vec<u8>> =
            FrameCompressor::new(CompressionLevel::Level(1));
        encoder.set_content_checksum(true);
        encoder.compress_independent_frame(bytes)
    }

    fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut out = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, mode, body) in entries {
            let options = ::zip::write::SimpleFileOptions::default().unix_permissions(*mode);
            if *mode == 0o777 {
                out.add_symlink(*name, "/etc/passwd", options).unwrap();
            } else {
                out.start_file(*name, options).unwrap();
                out.write_all(body).unwrap();
            }
        }
        out.finish().unwrap().into_inner()
    }

    #[test]
    fn files_come_out_of_each_form() {
        use ::tar::EntryType as T;
        let tar = tar_of(&[
            (b"./a", T::Directory, b""),
            (b"./a/x", T::Regular, b"1"),
            (b"y", T::Regular, b"22"),
        ]);
        let expected = Ok(vec![
            ("a/x".to_owned(), b"1".to_vec()),
            ("y".to_owned(), b"22".to_vec()),
        ]);
        assert_eq!(unpacked(&tar), expected);
        assert_eq!(unpacked(&gz(&tar)), expected);
        assert_eq!(unpacked(&zst(&tar)), expected);
        // Programs that compress in parallel write several frames.
        let (first, second) = tar.split_at(700);
        assert_eq!(unpacked(&[zst(first), zst(second)].concat()), expected);
        assert_eq!(
            unpacked(&zip_of(&[("a/x", 0o644, b"1"), ("y", 0o644, b"22")])),
            expected
        );
        assert_eq!(
            unpacked(b"\x08\x07 a graph"),
            Err("not an archive".to_owned())
        );
    }

    #[test]
    fn archives_that_reach_out_are_refused() {
        use ::tar::EntryType as T;
        let big = vec![0; 100_001];
        let many: Vec<(String, u32, &[u8])> =
            (0..9).map(|n| (format!("f{n}"), 0o644, &b""[..])).collect();
        let many: Vec<(&str, u32, &[u8])> =
            many.iter().map(|(n, m, b)| (n.as_str(), *m, *b)).collect();
        for (bytes, words) in [
            (tar_of(&[(b"../x", T::Regular, b"1")]), "leads out"),
            (tar_of(&[(b"a/../../x", T::Regular, b"1")]), "leads out"),
            (tar_of(&[(b"/etc/x", T::Regular, b"1")]), "absolute"),
            (tar_of(&[(b"a\\..\\x", T::Regular, b"1")]), "backslash"),
            (tar_of(&[(b"x", T::Symlink, b"")]), "link"),
            (tar_of(&[(b"x", T::Link, b"")]), "link"),
            (tar_of(&[(b"x", T::Char, b"")]), "device"),
            (tar_of(&[(b"x", T::Fifo, b"")]), "device"),
            (
                tar_of(&[(b"x", T::Regular, b"1"), (b"X", T::Regular, b"2")]),
                "twice",
            ),
            (
                gz(&tar_of(&[(b"x", T::Regular, &big)])),
                "more than 100000 bytes",
            ),
            (
                gz(&tar_of(&[
                    (b"x", T::Regular, &big[..60_000]),
                    (b"y", T::Regular, &big[..60_000]),
                ])),
                "more than 100000 bytes",
            ),
            (
                zst(&tar_of(&[(b"x", T::Regular, &big)])),
                "more than 100000 bytes",
            ),
            (zst(&tar_of(&[(b"../x", T::Regular, b"1")])), "leads out"),
            (zst(b"not a tar archive at all"), "cannot be read"),
            (
                zst(&tar_of(&[(b"x", T::Regular, b"12345")]))[..20].to_vec(),
                "cannot be read",
            ),
            (gz(b"not a tar archive at all"), "cannot be read"),
            (
                gz(&tar_of(&[(b"x", T::Regular, b"12345")]))[..60].to_vec(),
                "cannot be read",
            ),
            (zip_of(&[("../x", 0o644, b"1")]), "leads out"),
            (zip_of(&[("/x", 0o644, b"1")]), "absolute"),
            (zip_of(&[("x", 0o777, b"")]), "link"),
            (zip_of(&[("x", 0o644, &big)]), "more than 100000 bytes"),
            (zip_of(&many), "more than 8 files"),
            (
                zip_of(&[("x", 0o644, b"1")])[..30].to_vec(),
                "cannot be read",
            ),
        ] {
            let said = unpacked(&bytes).expect_err(words);
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
