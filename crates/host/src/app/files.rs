//! Decides which directories of the host a component sees, and under which paths.
//!
//! Spin copies what `files` names into a folder of its own before it serves; this host opens the
//! directories where they are, for reading. So it serves `{ source, destination }` with a directory,
//! and refuses what only a copy could do: patterns, single files and `exclude_files`.

use std::path::PathBuf;

use super::finding::{self, Finding};
use super::manifest::{FileForm, Manifest};

/// A directory of the host and the path a component sees it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The directory, resolved against the manifest's folder.
    pub host: PathBuf,
    /// The absolute path the component sees, without a slash at its end.
    pub guest: String,
}

/// The directories a component sees, in the order of the manifest.
///
/// # Errors
///
/// Everything that prevents them from being served as written.
pub fn mounts(manifest: &Manifest, component_id: &str) -> Result<Vec<Mount>, Vec<Finding>> {
    let Some(component) = manifest.components.get(component_id) else {
        return Err(vec![super::compose::unknown_component(
            manifest,
            component_id,
        )]);
    };
    let mut findings = Vec::new();
    let mut mounts: Vec<Mount> = Vec::new();
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
            FileForm::Pattern(pattern) => {
                error(
                    format!("patterns such as `{pattern}` are not served by this host"),
                    "use { source = \"…\", destination = \"/…\" } with a directory",
                );
                continue;
            }
            FileForm::Directory {
                source,
                destination,
            } => (source, destination),
        };
        let Some(guest) = guest_path(destination) else {
            error(
                format!("destination `{destination}` is not a plain absolute path"),
                "start it with a slash and use no `.`, `..` or empty parts",
            );
            continue;
        };
        let host = manifest.root.join(source);
        match std::fs::metadata(&host) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => error(
                format!(
                    "`{}` is a file; this host serves directories",
                    host.display()
                ),
                "name the directory it is in",
            ),
            Err(cause) => error(
                format!("`{}` cannot be opened ({cause})", host.display()),
                "create the directory, or correct the path",
            ),
        }
        if mounts.iter().any(|earlier| earlier.guest == guest) {
            error(
                format!("destination `{guest}` is taken by an earlier entry"),
                "give each directory a destination of its own",
            );
        }
        mounts.push(Mount { host, guest });
    }
    finding::sort(&mut findings);
    if findings.is_empty() {
        Ok(mounts)
    } else {
        Err(findings)
    }
}

/// The destination without a slash at its end, or none if it is not absolute and plain.
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

    fn resolve(files: &str) -> Result<Vec<Mount>, Vec<Finding>> {
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
        let mounts = mounts(&manifest, "c");
        for mount in mounts.iter().flatten() {
            assert!(mount.host.starts_with(dir.path()), "{mount:?}");
        }
        mounts
    }

    #[test]
    fn directories_are_mounted_where_the_manifest_says() {
        let mounts = resolve(
            "files = [{ source = \"models\", destination = \"/models/\" }, { source = \"models/a\", destination = \"/\" }]",
        )
        .expect("mounts");
        let guests: Vec<&str> = mounts.iter().map(|mount| mount.guest.as_str()).collect();
        assert_eq!(guests, ["/models", "/"]);
        assert!(mounts[1].host.ends_with("models/a"));
        assert_eq!(resolve("").expect("none"), []);
    }

    #[test]
    fn what_only_a_copy_could_serve_is_refused_with_its_line() {
        for (files, said) in [
            ("files = [\"models/**\"]", "patterns such as `models/**`"),
            ("files = [\"one.txt\"]", "patterns such as `one.txt`"),
            (
                "files = [{ source = \"one.txt\", destination = \"/one\" }]",
                "is a file",
            ),
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
        let findings = mounts(&manifest, "gaet").expect_err("unknown");
        assert!(
            findings[0].to_string().contains("did you mean `gate`?"),
            "{}",
            findings[0]
        );
    }
}
