//! Decides which directories of the host a component sees, and under which paths.
//!
//! Spin copies the entries of `files` into its own folder before it serves. This host opens directories in place, for
//! reading, and copies single files. So it serves `{ source, destination }` with a directory or a file, and the plain
//! path of a file. It refuses patterns and `exclude_files`, which would need a copy of everything.

use std::path::{Path, PathBuf};

use super::finding::{self, Finding};
use super::manifest::{FileForm, Manifest};

/// The largest single file that is copied. Configuration is small; models are in directories.
const MAX_SINGLE_FILE_BYTES: u64 = 16 << 20;

/// A directory of the host and the path a component sees it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The directory, resolved against the manifest's folder.
    pub host: PathBuf,
    /// The absolute path the component sees, without a slash at its end.
    pub guest: String,
}

/// A file of the host and the path a component sees a copy of it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleFile {
    /// The file, resolved against the manifest's folder.
    pub host: PathBuf,
    /// The absolute path the component sees.
    pub guest: String,
}

/// The host's files that a component sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    /// Directories, in the order of the manifest.
    pub directories: Vec<Mount>,
    /// Files that are mounted one by one. There is no directory at `/` beside them.
    pub files: Vec<SingleFile>,
}

/// Returns the host's files that a component sees. `assumed` are files that need not exist: the host makes them.
///
/// # Errors
///
/// Every problem that prevents serving them as written.
pub fn visible(
    manifest: &Manifest,
    component_id: &str,
    assumed: &[&str],
) -> Result<Visible, Vec<Finding>> {
    let Some(component) = manifest.components.get(component_id) else {
        return Err(vec![super::compose::unknown_component(
            manifest,
            component_id,
        )]);
    };
    let mut findings = Vec::new();
    let mut visible = Visible::default();
    if let Some(place) = component.exclude_files_place {
        findings.push(Finding::error(
            &manifest.path,
            Some(place),
            format!("`exclude_files` in [component.{component_id}] is not served by this host"),
            "keep what the component may not read in another directory",
        ));
    }
    for entry in &component.files {
        let mut error = |message: String, remedy: &str| {
            findings.push(Finding::error(
                &manifest.path,
                Some(entry.place),
                message,
                remedy,
            ));
        };
        let (source, destination) = match &entry.form {
            FileForm::Pattern(path) if path.contains(['*', '?', '[', '{']) => {
                error(
                    format!("patterns such as `{path}` are not served by this host"),
                    "use { source = \"…\", destination = \"/…\" } with a directory, or name a single file",
                );
                continue;
            }
            // Spin keeps the path of a single file.
            FileForm::Pattern(path) => (path, format!("/{path}")),
            FileForm::Directory {
                source,
                destination,
            } => (source, destination.clone()),
        };
        let Some(guest) = guest_path(&destination) else {
            error(
                format!("destination `{destination}` is not a plain absolute path"),
                "start it with a slash and use no `.`, `..` or empty parts",
            );
            continue;
        };
        let host = manifest.root.join(source);
        let is_file = match assumed.contains(&guest.as_str()) {
            true => true,
            false => match is_file(&host, source, &entry.form) {
                Ok(is_file) => is_file,
                Err((message, remedy)) => {
                    error(message, remedy);
                    continue;
                }
            },
        };
        let taken = visible.directories.iter().any(|d| d.guest == guest)
            || visible.files.iter().any(|f| f.guest == guest)
            || (guest == "/" && !visible.files.is_empty())
            || (is_file && visible.directories.iter().any(|d| d.guest == "/"));
        if taken {
            error(
                format!("destination `{guest}` is taken by an earlier entry"),
                "give each entry a destination of its own; single files cannot stand beside a directory at `/`",
            );
            continue;
        }
        if is_file {
            visible.files.push(SingleFile { host, guest });
        } else {
            visible.directories.push(Mount { host, guest });
        }
    }
    finding::sort(&mut findings);
    if findings.is_empty() {
        Ok(visible)
    } else {
        Err(findings)
    }
}

/// Returns whether an entry is a single file and not a directory; or the reason why it cannot be served, with the remedy.
fn is_file(host: &Path, source: &str, form: &FileForm) -> Result<bool, (String, &'static str)> {
    match std::fs::metadata(host) {
        Ok(found) if found.is_dir() && matches!(form, FileForm::Pattern(_)) => Err((
            format!("`{source}` is a directory"),
            "use { source = \"…\", destination = \"/…\" }",
        )),
        Ok(found) if found.is_file() && found.len() > MAX_SINGLE_FILE_BYTES => Err((
            format!(
                "`{}` has {} bytes; single files are copied, so they have at most {MAX_SINGLE_FILE_BYTES}",
                host.display(),
                found.len()
            ),
            "put it into a directory and mount that",
        )),
        Ok(found) => Ok(found.is_file()),
        Err(cause) => Err((
            format!("`{}` cannot be opened ({cause})", host.display()),
            "create the directory or file, or correct the path",
        )),
    }
}

/// Copies single files into a folder that is to be mounted at `/`. A missing file is left out: only files that need not
/// exist can be missing here.
///
/// # Errors
///
/// If one cannot be copied.
pub fn copy(files: &[SingleFile], into: &Path) -> std::io::Result<()> {
    for file in files {
        let to = into.join(file.guest.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::copy(&file.host, &to) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let message = format!("{} cannot be copied: {e}", file.host.display());
                return Err(std::io::Error::new(e.kind(), message));
            }
        }
    }
    Ok(())
}

/// The destination without a slash at its end, or `None` if it is not absolute and plain.
fn guest_path(destination: &str) -> Option<String> {
    let path = destination.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Some("/".to_owned());
    }
    path.split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
        .then(|| format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(files: &str) -> Result<Visible, Vec<Finding>> {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("models/a")).expect("made");
        std::fs::write(dir.path().join("one.txt"), "1").expect("written");
        let text = format!(
            "spin_manifest_version = 2\n[application]\nname = \"a\"\n\
             [[trigger.http]]\nroute = \"/...\"\ncomponent = \"c\"\n\
             [component.c]\nsource = \"c.wasm\"\n{files}\n"
        );
        let path = dir.path().join("spin.toml");
        let manifest = Manifest::parse(&path, &text).expect("a manifest");
        let visible = visible(&manifest, "c", &["/made.toml"]);
        for mount in visible.iter().flat_map(|v| &v.directories) {
            assert!(mount.host.starts_with(dir.path()), "{mount:?}");
        }
        let to = dir.path().join("copied");
        for file in visible.iter().flat_map(|v| &v.files) {
            copy(std::slice::from_ref(file), &to).expect("copied");
            let there = to.join(file.guest.trim_start_matches('/')).exists();
            assert_eq!(there, file.host.exists(), "{file:?}");
        }
        visible
    }

    #[test]
    fn directories_are_mounted_where_the_manifest_says() {
        let visible = resolve(
            "files = [{ source = \"models\", destination = \"/models/\" }, { source = \"models/a\", destination = \"/\" }]",
        )
        .expect("mounts");
        let guests: Vec<&str> = visible
            .directories
            .iter()
            .map(|m| m.guest.as_str())
            .collect();
        assert_eq!(guests, ["/models", "/"]);
        assert!(visible.directories[1].host.ends_with("models/a"));
        assert_eq!(resolve("").expect("none"), Visible::default());
    }

    #[test]
    fn single_files_are_copied_to_where_the_manifest_says() {
        let visible = resolve(
            "files = [\"one.txt\", \"made.toml\", { source = \"one.txt\", destination = \"/etc/two.txt\" }]",
        )
        .expect("files");
        let guests: Vec<&str> = visible.files.iter().map(|f| f.guest.as_str()).collect();
        assert_eq!(guests, ["/one.txt", "/made.toml", "/etc/two.txt"]);
        assert!(visible.directories.is_empty());
    }

    #[test]
    fn files_that_only_a_copy_could_serve_are_refused_with_their_line() {
        for (files, said) in [
            ("files = [\"models/**\"]", "patterns such as `models/**`"),
            ("files = [\"none.txt\"]", "cannot be opened"),
            ("files = [\"models\"]", "is a directory"),
            (
                "files = [\"one.txt\", { source = \"models\", destination = \"/\" }]",
                "is taken",
            ),
            ("files = [\"one.txt\", \"one.txt\"]", "is taken"),
            ("files = [\"../one.txt\"]", "plain absolute"),
            (
                "files = [{ source = \"none\", destination = \"/none\" }]",
                "cannot be opened",
            ),
            (
                "files = [{ source = \"models\", destination = \"m\" }]",
                "plain absolute",
            ),
            (
                "files = [{ source = \"models\", destination = \"/a/../b\" }]",
                "plain absolute",
            ),
            ("exclude_files = [\"secret\"]", "exclude_files"),
            (
                "files = [{ source = \"models\", destination = \"/m\" }, { source = \"models/a\", destination = \"/m/\" }]",
                "is taken",
            ),
        ] {
            let findings = resolve(files).expect_err(files);
            assert_eq!(findings.len(), 1, "{files}: {findings:?}");
            assert!(
                findings[0].message.contains(said),
                "{files}: {}",
                findings[0]
            );
            assert_eq!(findings[0].line, Some(9), "{files}");
        }
    }

    #[test]
    fn asking_for_an_unknown_component_names_the_known_ones() {
        let path = std::path::Path::new("spin.toml");
        let text = "spin_manifest_version = 2\n[application]\nname = \"a\"\n\
                    [[trigger.http]]\nroute = \"/...\"\ncomponent = \"gate\"\n\
                    [component.gate]\nsource = \"c.wasm\"\n";
        let manifest = Manifest::parse(path, text).expect("a manifest");
        let findings = visible(&manifest, "gaet", &[]).expect_err("unknown");
        assert!(
            findings[0].to_string().contains("did you mean `gate`?"),
            "{}",
            findings[0]
        );
    }
}
