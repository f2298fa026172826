//! Decides when machine code from an earlier run may be trusted.
//!
//! Compiling a composed component takes seconds and always gives the same code for the same component, engine and
//! settings. So the code is kept in a directory. Loading machine code is as dangerous as running a program, so a file
//! is only loaded if
//!
//! * no other user could have written it: the directory belongs to this user, or to root, and no other user may write
//!   to it;
//! * it is unchanged: it carries a digest of itself, and the digested bytes are the loaded bytes;
//! * it was made from this component, by this version of the compiler with these settings: the digest of all that is
//!   its name, and is in the file too.
//!
//! Anything else is compiled again. An unusable cache makes the start slow, and never fails it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{anyhow, bail};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::engine::{self, Concurrency};
use crate::settings::InstanceSettings;

/// Compiled components that are kept. An application has one or a few, so this covers several builds. Each is about
/// twice as large as its component.
pub const MAX_CACHED: usize = 16;

/// The largest cache file that is read: compiled code of the largest component that is accepted.
const MAX_CACHED_BYTES: u64 = 1 << 30;

/// Time for which an unfinished file is left alone, because another process may still write it.
const UNFINISHED_FOR: Duration = Duration::from_secs(60 * 60);

/// The beginning of a cache file. A change of the layout changes the number.
const MAGIC: &[u8; 16] = b"penstock-cwasm-1";
const DIGEST_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 2 * DIGEST_BYTES;
const EXTENSION: &str = "cwasm";

/// The result of a look into the cache of machine code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// It was there, and was loaded.
    Hit,
    /// It was missing, and is stored now.
    Miss,
    /// The cache could not be used, for this reason. The code was compiled and is not stored.
    Unusable(String),
}

/// The origin of a component's machine code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOutcome {
    /// The result of the look into the cache.
    pub cached: Cached,
    /// The time for it, in milliseconds.
    pub millis: u64,
}

/// A component that is ready to be linked.
pub struct Compiled {
    /// Its machine code, with the engine that runs it.
    pub component: Component,
    /// The use of the asynchronous part of the component model that the engine allows.
    pub concurrency: Concurrency,
    /// The origin of the code.
    pub outcome: CacheOutcome,
}

/// Compiles a composed component, or loads the code that an earlier run compiled. `imports` are the names of its
/// imports. Its engine has no concurrency if the component needs none, because calls are cheaper then.
///
/// # Errors
///
/// No engine can be built with these settings, or none accepts the component.
pub fn compile(
    settings: &InstanceSettings,
    bytes: &[u8],
    imports: &[String],
    cache_dir: &Path,
) -> anyhow::Result<Compiled> {
    let candidates: &[Concurrency] = if imports.iter().any(|import| is_async(import)) {
        &[Concurrency::On]
    } else {
        // The first engine refuses a component that uses concurrency inside, before it compiles anything.
        &[Concurrency::Off, Concurrency::On]
    };
    let engine = |at: usize| {
        engine::build(settings, candidates[at]).map_err(|e| {
            anyhow!(
                "cannot start the WebAssembly engine: {e:#}; [instances] may need more memory than the machine has"
            )
        })
    };
    let (at, component, outcome) = compile_for(candidates.len(), engine, bytes, cache_dir)?;
    Ok(Compiled {
        component,
        concurrency: candidates[at],
        outcome,
    })
}

/// Returns whether an interface has asynchronous functions.
fn is_async(import: &str) -> bool {
    crate::kv::is_async(import) || (import.starts_with("wasi:") && import.contains("@0.3"))
}

/// Compiles a component for the first of `count` engines that accepts it, or loads its code. Returns the index of the
/// engine. There is one engine at a time, because each reserves addresses for all instances.
fn compile_for(
    count: usize,
    engine: impl Fn(usize) -> anyhow::Result<Engine>,
    bytes: &[u8],
    cache_dir: &Path,
) -> anyhow::Result<(usize, Component, CacheOutcome)> {
    let started = Instant::now();
    let outcome = |cached| CacheOutcome {
        cached,
        millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let usable = prepare(cache_dir);
    if usable.is_ok() {
        for at in 0..count {
            let engine = engine(at)?;
            if let Some(component) = load(&engine, &key(&engine, bytes), cache_dir) {
                return Ok((at, component, outcome(Cached::Hit)));
            }
        }
    }
    // This takes seconds of every core, so the log must not be silent meanwhile.
    tracing::info!(
        "compiling the components to machine code ({} of WebAssembly); this uses every core for some seconds; \
         later starts of this build load the code from `{}`",
        megabytes(bytes.len()),
        cache_dir.display()
    );
    let mut at = 0;
    let component = loop {
        match Component::new(&engine(at)?, bytes) {
            Ok(component) => break component,
            Err(_) if at + 1 < count => at += 1,
            // The last engine allows most, so its reason counts.
            Err(error) => bail!("the engine does not accept the component: {error:?}"),
        }
    };
    tracing::info!(
        "compiled the components in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let kept = usable.and_then(|()| {
        let code = component
            .serialize()
            .map_err(|error| format!("the compiled code cannot be serialized: {error:?}"))?;
        store(&key(component.engine(), bytes), &code, cache_dir).map_err(|error| {
            format!(
                "the compiled code cannot be stored in `{}` ({error})",
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
    Ok((at, component, outcome(cached)))
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A digest of everything that determines the machine code.
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
    /// Feeds hashed data into the digest, so that nothing of it is lost in 64 bits.
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

/// Creates the directory if needed, and returns the reason if it cannot be used.
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
            .map_err(|error| format!("`{at}` cannot be examined ({error})"))?;
        if metadata.mode() & 0o022 != 0 {
            return Err(format!(
                "other users can write to `{at}` and could run their code in this server; run `chmod 700 {at}`, or name another directory"
            ));
        }
        let owner = metadata.uid();
        if owner != 0 && Some(owner) != own_user(cache_dir) {
            return Err(format!(
                "`{at}` belongs to another user, who could run code in this server; name another directory"
            ));
        }
    }
    Ok(())
}

/// Returns the user of this process, which owns its files. There is no other way to find it without a call into C.
#[cfg(unix)]
fn own_user(cache_dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let (path, file) = aside(cache_dir, "owner").ok()?;
    let owner = file.metadata().ok().map(|metadata| metadata.uid());
    let _ = fs::remove_file(path);
    owner
}

/// Opens a new file that only this user can read, under a unique name.
fn aside(cache_dir: &Path, stem: &str) -> io::Result<(PathBuf, File)> {
    /// Distinguishes the files that several threads write at once.
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

/// Loads the component that an earlier run compiled, if it may be trusted.
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
        return refuse("is damaged or belongs to other components");
    };
    // SAFETY: `deserialize` requires that the bytes come from this library's own serialization and are unchanged.
    // `prepare` has established that only this user and root can write to the directory. `verified` has established
    // that these bytes, which nobody else can reach any more, are the ones that `store` wrote for this component, this
    // compiler and these settings: the digest covers all of them. `deserialize` checks itself that they fit this
    // engine.
    match unsafe { Component::deserialize(engine, code) } {
        Ok(component) => {
            // The most recently used files are kept. A failure to note the use is harmless.
            let _ = file.set_modified(SystemTime::now());
            Some(component)
        }
        Err(error) => refuse(&format!("is not accepted by the engine ({error:?})")),
    }
}

/// Returns the machine code of a cache file, if the file is complete and was made for this key.
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

/// Stores machine code in the cache. It is written to another name and renamed, so that no reader ever sees a part of it.
fn store(key: &Key, code: &[u8], cache_dir: &Path) -> io::Result<()> {
    let path = key.path(cache_dir);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&key.0);
    header.extend_from_slice(&digest_of(key, code));
    let (aside, mut file) = aside(cache_dir, &key.to_string())?;
    // No wait for the disk: after a power cut the remains do not match their digest.
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

/// Removes unfinished files, and the least recently used files down to [`MAX_CACHED`], but never the one just written.
/// A failure is ignored.
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
        let engine = |_| Ok(engine.clone());
        let compiled = compile_for(1, engine, bytes, at).expect("it compiles");
        compiled.2.cached
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
    fn a_component_gets_concurrency_only_if_it_needs_it() {
        let dir = directory();
        let settings = InstanceSettings {
            count: 1,
            ..InstanceSettings::default()
        };
        let plain = component("(component (core module))");
        let inside = component("(component (type (stream u8)))");
        for (bytes, imports, concurrency) in [
            (&plain, "penstock:types/http@0.1.0", Concurrency::Off),
            (&plain, "wasi:http/types@0.2.6", Concurrency::Off),
            (&plain, "wasi:http/types@0.3.0", Concurrency::On),
            (&plain, "spin:key-value/key-value@3.0.0", Concurrency::On),
            (&inside, "penstock:types/http@0.1.0", Concurrency::On),
        ] {
            let imports = [imports.to_owned()];
            for cached in [Cached::Miss, Cached::Hit] {
                let compiled = compile(&settings, bytes, &imports, dir.path()).expect("compiled");
                assert_eq!(compiled.concurrency, concurrency, "{imports:?}");
                let seen = &compiled.outcome.cached;
                assert!(seen == &cached || seen == &Cached::Hit, "{imports:?}");
            }
        }
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
    fn a_component_that_the_engine_refuses_is_an_error_and_is_not_kept() {
        let (engine, dir) = (engine(), directory());
        let engine = |_| Ok(engine.clone());
        assert!(compile_for(1, engine, b"\0asm, or so", dir.path()).is_err());
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
