//! minisign signatures (<https://jedisct1.github.io/minisign/>).

use crate::credentials::small_file;
use crate::error::Error;
use minisign_verify::{PublicKey, Signature};
use std::io::Read;
use std::path::Path;

/// The list of checksums that is signed if a model has several files.
pub const SUMS: &str = "SHA256SUMS";
/// The file with the signature of [`SUMS`].
pub const SUMS_SIGNATURE: &str = "SHA256SUMS.minisig";
/// The suffix of a signature's file name.
pub const ENDING: &str = ".minisig";
/// The largest signature that is read; real ones have some hundred bytes.
pub const MAX_BYTES: usize = 16 << 10;

/// Reads a public key: its line of base64, or a file that holds it.
pub fn key(text: &str, folder: &Path) -> Result<PublicKey, Error> {
    if let Ok(key) = PublicKey::from_base64(text.trim()) {
        return Ok(key);
    }
    let path = folder.join(text);
    let text = small_file(&path).map_err(|e| {
        Error::local(format!(
            "signature_key is neither a minisign public key nor a file that holds one ({}: {e})",
            path.display()
        ))
    })?;
    PublicKey::decode(&text)
        .or_else(|_| PublicKey::from_base64(text.trim()))
        .map_err(|_| Error::local(format!("{} holds no minisign public key", path.display())))
}

/// Checks a file against a signature.
pub fn check(key: &PublicKey, signature: &str, file: &Path) -> Result<(), Error> {
    let bad = |e: minisign_verify::Error| {
        Error::refused(format!(
            "its signature is not valid: {e}; nothing was installed"
        ))
    };
    let signature = Signature::decode(signature).map_err(bad)?;
    let mut verifier = key.verify_stream(&signature).map_err(|e| match e {
        minisign_verify::Error::UnsupportedLegacyMode => Error::refused(
            "its signature is in the old form, which cannot be checked while a file is read; sign it with `minisign -H`",
        ),
        e => bad(e),
    })?;
    let mut from = std::fs::File::open(file).map_err(|e| Error::io("read the download", e))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from
            .read(&mut buffer)
            .map_err(|e| Error::io("read the download", e))?
        {
            0 => break,
            count => verifier.update(&buffer[..count]),
        }
    }
    verifier.finalize().map_err(bad)
}
