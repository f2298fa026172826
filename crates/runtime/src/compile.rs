//! Decides when machine code from an earlier run may be trusted.
//!
//! Compiling a composed component takes seconds and always gives the same code for the same component,
//! engine and settings, so the code is kept in a directory. Loading machine code is as dangerous as
//! running a program, so a file is only loaded if
//!
//! * nobody else could have written it: the directory belongs to this user, or to root, and nobody else
//!   may write in it;
//! * it is what was written: it carries a digest of itself, and the bytes that were digested are the
//!   bytes that are loaded;
//! * it was made from this very component, by this version of the compiler with these settings: the
//!   digest of all that is its name, and is in the file too.
//!
//! Anything else is compiled afresh. A cache that cannot be used is a slow start, never a failed one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// How many compiled components are kept. An application has one or a few, so this is several builds'
/// worth; each is about as large as twice its component.
pub const MAX_CACHED: usize = 16;

/// The largest cache file that is read: compiled code of the largest component that is accepted.
const MAX_CACHED_BYTES: u64 = 1 << 30;

/// How long an unfinished file is left alone: whoever writes it may still be at it.
const UNFINISHED_FOR: Duration = Duration::from_secs(60 * 60);

/// What a cache file starts with. Changing the layout changes the number.
const MAGIC: &[u8; 16] = b"penstock-cwasm-1";
const DIGEST_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 2 * DIGEST_BYTES;
const EXTENSION: &str = "cwasm";

/// Whether the machine code was there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// It was, and was loaded.
    Hit,
    /// It was not, and is now kept.
    Miss,
    /// The cache could not be used, for this reason; the code was compiled and is not kept.
    Unusable(String),
}

/// How a component came to be machine code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOutcome {
    /// Whether the code was there already.
    pub cached: Cached,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Compiles a component, or loads what an earlier run compiled from it.
///
/// # Errors
///
/// The component is not one that the engine accepts.
pub fn compile(
    engine: &Engine,
    bytes: &[u8],
    cache_dir: &Path,
) -> anyhow::Result<(Component, CacheOutcome)> {
    let started = Instant::now();
    let key = key(engine, bytes);
    let outcome = |cached| CacheOutcome {
        cached,
        millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let usable = prepare(cache_dir);
    if usable.is_ok()
        && let Some(component) = load(engine, &key, cache_dir)
    {
        return Ok((component, outcome(Cached::Hit)));
    }
    // This takes seconds of every core, so the log must not be silent meanwhile.
    tracing::info!(
        "compiling the components to machine code ({} of WebAssembly); this uses every core for some seconds, and happens \
         once: later starts of this build load the code from `{}`",
        megabytes(bytes.len()),
        cache_dir.display()
    );
    let component = Component::new(engine, bytes)
        .map_err(|error| anyhow!("the engine does not accept the component: {error:?}"))?;
    tracing::info!(
        "compiled the components in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let kept = usable.and_then(|()| {
        let code = component
            .serialize()
            .map_err(|error| format!("the compiled code cannot be written down: {error:?}"))?;
        store(&key, &code, cache_dir).map_err(|error| {
            format!(
                "the compiled code cannot be kept in `{}` ({error})",
                cache_dir.display()
            )
        })
    });
    let cached = match kept {
        Ok(()) => Cached::Miss,
        Err(reason) => {
            tracing::warn!("every start will compile the application again: {reason}");
            Cached::Unusable(reason)
        }
    };
    Ok((component, outcome(cached)))
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A digest of all that decides the machine code.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u8; DIGEST_BYTES]);

impl Key {
    fn path(&self, cache_dir: &Path) -> PathBuf {
        cache_dir.join(format!("{self}.{EXTENSION}"))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn key(engine: &Engine, bytes: &[u8]) -> Key {
    /// Takes what would be hashed into the digest, so that nothing of it is lost in 64 bits.
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut compiler = Feed(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut compiler);
    let mut digest = Sha256::new();
    digest.update(MAGIC);
    digest.update(compiler.0.finalize());
    digest.update(bytes);
    Key(digest.finalize().into())
}

/// Makes the directory if need be, and says why it cannot be used if it cannot.
fn prepare(cache_dir: &Path) -> Result<(), String> {
    let at = cache_dir.display();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(cache_dir)
        .map_err(|error| format!("`{at}` cannot be created ({error})"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(cache_dir)
            .map_err(|error| format!("`{at}` cannot be looked at ({error})"))?;
        if metadata.mode() & 0o022 != 0 {
            return Err(format!(
                "others may write in `{at}`, and could have their code run here; `chmod 700` it, or name another directory"
            ));
        }
        let owner = metadata.uid();
        if owner != 0 && Some(owner) != own_user(cache_dir) {
            return Err(format!(
                "`{at}` belongs to another user, who could have their code run here; name another directory"
            ));
        }
    }
    Ok(())
}

/// The user this process acts as, who owns whatever it makes. There is no other way to ask without
/// calling into C.
#[cfg(unix)]
fn own_user(cache_dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let (path, file) = aside(cache_dir, "owner").ok()?;
    let owner = file.metadata().ok().map(|metadata| metadata.uid());
    let _ = fs::remove_file(path);
    owner
}

/// Opens a new file that only this user can read, under a name nobody else uses.
fn aside(cache_dir: &Path, stem: &str) -> io::Result<(PathBuf, File)> {
    /// Tells apart what several threads write at once.
    static MADE: AtomicU64 = AtomicU64::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let path = cache_dir.join(format!("{stem}.{}-{made}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path)?;
    Ok((path, file))
}

/// The component an earlier run compiled, if there is one that may be trusted.
fn load(engine: &Engine, key: &Key, cache_dir: &Path) -> Option<Component> {
    let path = key.path(cache_dir);
    let refuse = |why: &str| {
        tracing::warn!("`{}` {why}; compiling again", path.display());
        None
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return refuse(&format!("cannot be opened ({error})")),
    };
    let mut content = Vec::new();
    match (&file).take(MAX_CACHED_BYTES + 1).read_to_end(&mut content) {
        Ok(read) if read as u64 > MAX_CACHED_BYTES => return refuse("is too large"),
        Ok(_) => {}
        Err(error) => return refuse(&format!("cannot be read ({error})")),
    }
    let Some(code) = verified(key, &content) else {
        return refuse("is damaged or was made from something else");
    };
    // SAFETY: `deserialize` asks that the bytes come from this library's own serialization and were not
    // changed since. `prepare` has established that only this user and root can write in the directory,
    // and `verified` that these very bytes, which nobody else can reach any more, are the ones `store`
    // wrote for this component, this compiler and these settings: the digest covers all of them. That
    // they fit this engine, `deserialize` checks by itself.
    match unsafe { Component::deserialize(engine, code) } {
        Ok(component) => {
            // The files used last are the ones to keep; that this one was used is only worth trying to note.
            let _ = file.set_modified(SystemTime::now());
            Some(component)
        }
        Err(error) => refuse(&format!("is not accepted by the engine ({error:?})")),
    }
}

/// The machine code in a cache file, if the file is whole and was made for this key.
fn verified<'c>(key: &Key, content: &'c [u8]) -> Option<&'c [u8]> {
    let rest = content.strip_prefix(MAGIC)?;
    let (made_for, rest) = rest.split_at_checked(DIGEST_BYTES)?;
    let (digest, code) = rest.split_at_checked(DIGEST_BYTES)?;
    (made_for == key.0 && digest == digest_of(key, code)).then_some(code)
}

fn digest_of(key: &Key, code: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = Sha256::new();
    digest.update(key.0);
    digest.update(code);
    digest.finalize().into()
}

/// Keeps machine code: written aside, then renamed, so that no reader ever sees a part of it.
fn store(key: &Key, code: &[u8], cache_dir: &Path) -> io::Result<()> {
    let path = key.path(cache_dir);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&key.0);
    header.extend_from_slice(&digest_of(key, code));
    let (aside, mut file) = aside(cache_dir, &key.to_string())?;
    // No wait for the disk: what a power cut leaves behind does not match its digest.
    let written = file
        .write_all(&header)
        .and_then(|()| file.write_all(code))
        .and_then(|()| fs::rename(&aside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written?;
    prune(cache_dir, &path);
    Ok(())
}

/// Removes the files that were not used for longest, down to [`MAX_CACHED`], but never the one just
/// written, and what was left unfinished. Failing to is not worth failing for.
fn prune(cache_dir: &Path, just_written: &Path) {
    let Ok(entries) = fs::read_dir(cache_dir) else {
        return;
    };
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(used) = entry
            .metadata()
            .ok()
            .and_then(|found| found.modified().ok())
        else {
            continue;
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(EXTENSION) if path != just_written => kept.push((used, path)),
            Some("tmp") if used.elapsed().is_ok_and(|age| age > UNFINISHED_FOR) => {
                let _ = fs::remove_file(path);
            }
            _ => {}
        }
    }
    kept.sort();
    let excess = (kept.len() + 1).saturating_sub(MAX_CACHED);
    for (_, path) in kept.into_iter().take(excess) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        let mut config = wasmtime::Config::new();
        config.wasm_component_model(true);
        Engine::new(&config).expect("an engine")
    }

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect("valid text")
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn cached(engine: &Engine, bytes: &[u8], at: &Path) -> Cached {
        compile(engine, bytes, at).expect("it compiles").1.cached
    }

    fn cache_files(at: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(at)
            .expect("the directory")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        files
    }

    #[test]
    fn the_second_start_loads_what_the_first_compiled() {
        let (engine, dir) = (engine(), directory());
        let at = dir.path().join("deep/cache");
        let bytes = component("(component (core module))");
        assert_eq!(cached(&engine, &bytes, &at), Cached::Miss);
        assert_eq!(cached(&engine, &bytes, &at), Cached::Hit);
        let other = component("(component)");
        assert_eq!(cached(&engine, &other, &at), Cached::Miss);
        assert_eq!(cache_files(&at).len(), 2, "and nothing is left aside");
    }

    #[test]
    fn an_engine_with_other_settings_does_not_share_code() {
        let dir = directory();
        let bytes = component("(component (core module))");
        let mut config = wasmtime::Config::new();
        config.wasm_component_model(true).epoch_interruption(true);
        let other = Engine::new(&config).expect("an engine");
        assert_eq!(cached(&engine(), &bytes, dir.path()), Cached::Miss);
        assert_eq!(cached(&other, &bytes, dir.path()), Cached::Miss);
        assert_eq!(cached(&other, &bytes, dir.path()), Cached::Hit);
    }

    #[test]
    fn a_damaged_file_is_compiled_again_wherever_the_damage_is() {
        let (engine, dir) = (engine(), directory());
        let bytes = component("(component (core module))");
        assert_eq!(cached(&engine, &bytes, dir.path()), Cached::Miss);
        let file = cache_files(dir.path()).remove(0);
        let whole = fs::read(&file).expect("the file");
        for at in [
            0,
            MAGIC.len(),
            MAGIC.len() + DIGEST_BYTES,
            HEADER_BYTES,
            whole.len() - 1,
        ] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, damaged).expect("written");
            assert_eq!(
                cached(&engine, &bytes, dir.path()),
                Cached::Miss,
                "byte {at}"
            );
            assert_eq!(
                cached(&engine, &bytes, dir.path()),
                Cached::Hit,
                "byte {at}"
            );
        }
        for length in [0, 1, MAGIC.len(), HEADER_BYTES, whole.len() - 1] {
            fs::write(&file, &whole[..length]).expect("written");
            assert_eq!(
                cached(&engine, &bytes, dir.path()),
                Cached::Miss,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_file_under_the_name_of_another_component_is_not_loaded() {
        let (engine, dir) = (engine(), directory());
        let (one, two) = (
            component("(component)"),
            component("(component (core module))"),
        );
        assert_eq!(cached(&engine, &one, dir.path()), Cached::Miss);
        let from = key(&engine, &one).path(dir.path());
        let to = key(&engine, &two).path(dir.path());
        fs::copy(from, to).expect("copied");
        assert_eq!(cached(&engine, &two, dir.path()), Cached::Miss);
    }

    #[test]
    fn whole_files_that_are_no_machine_code_are_refused_by_the_engine() {
        let (engine, dir) = (engine(), directory());
        let bytes = component("(component)");
        let key = key(&engine, &bytes);
        store(&key, b"not machine code", dir.path()).expect("stored");
        assert_eq!(cached(&engine, &bytes, dir.path()), Cached::Miss);
        assert_eq!(cached(&engine, &bytes, dir.path()), Cached::Hit);
    }

    #[test]
    fn the_files_used_last_are_kept_and_the_number_of_them_is_bounded() {
        let (engine, dir) = (engine(), directory());
        let favourite = component("(component)");
        let old = SystemTime::now() - 2 * UNFINISHED_FOR;
        assert_eq!(cached(&engine, &favourite, dir.path()), Cached::Miss);
        for nth in 0..MAX_CACHED + 3 {
            let file = dir.path().join(format!("{nth:02}.{EXTENSION}"));
            let file = File::create(file).expect("created");
            file.set_modified(old).expect("aged");
        }
        let unfinished = dir.path().join("abandoned.tmp");
        File::create(&unfinished)
            .expect("created")
            .set_modified(old)
            .expect("aged");
        let stranger = dir.path().join("README");
        File::create(&stranger).expect("created");
        assert_eq!(cached(&engine, &favourite, dir.path()), Cached::Hit);

        let bytes = component("(component (core module))");
        assert_eq!(cached(&engine, &bytes, dir.path()), Cached::Miss);
        let left = cache_files(dir.path());
        let compiled = left
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == EXTENSION));
        assert_eq!(compiled.count(), MAX_CACHED);
        assert!(!unfinished.exists(), "what was abandoned is gone");
        assert!(stranger.exists(), "what is not ours stays");
        assert_eq!(cached(&engine, &bytes, dir.path()), Cached::Hit);
        assert_eq!(cached(&engine, &favourite, dir.path()), Cached::Hit);
    }

    #[test]
    fn what_the_engine_does_not_accept_is_an_error_and_is_not_kept() {
        let (engine, dir) = (engine(), directory());
        assert!(compile(&engine, b"\0asm, or so", dir.path()).is_err());
        assert!(cache_files(dir.path()).is_empty());
    }

    #[test]
    fn a_cache_that_cannot_be_made_is_a_slow_start_and_not_a_failed_one() {
        let (engine, dir) = (engine(), directory());
        let file = dir.path().join("file");
        File::create(&file).expect("created");
        let outcome = cached(&engine, &component("(component)"), &file.join("cache"));
        assert!(matches!(outcome, Cached::Unusable(_)), "{outcome:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_others_may_write_in_is_neither_read_nor_written() {
        use std::os::unix::fs::PermissionsExt;
        let (engine, dir) = (engine(), directory());
        let at = dir.path().join("cache");
        let bytes = component("(component)");
        assert_eq!(cached(&engine, &bytes, &at), Cached::Miss);
        let mode = fs::metadata(&at).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "made for this user alone");
        fs::set_permissions(&at, fs::Permissions::from_mode(0o777)).expect("opened");
        let outcome = cached(&engine, &bytes, &at);
        assert!(
            matches!(&outcome, Cached::Unusable(reason) if reason.contains("chmod 700")),
            "{outcome:?}"
        );
    }
}
