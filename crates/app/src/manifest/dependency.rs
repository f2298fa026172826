//! The names of dependencies, and when two versions of an interface agree.

use semver::Version;
use std::fmt;

/// The imports that a dependency satisfies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DependencyName {
    /// An import with a plain name.
    Plain(String),
    /// All imports of a package, or one interface of it, at any version or one version.
    Package {
        /// The name of the package, as `namespace:name`.
        package: String,
        /// The interface, or `None` for all of the package.
        interface: Option<String>,
        /// The version, or `None` for any.
        version: Option<Version>,
    },
}

impl fmt::Display for DependencyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DependencyName::Plain(name) => f.write_str(name),
            DependencyName::Package {
                package,
                interface,
                version,
            } => {
                f.write_str(package)?;
                if let Some(interface) = interface {
                    write!(f, "/{interface}")?;
                }
                if let Some(version) = version {
                    write!(f, "@{version}")?;
                }
                Ok(())
            }
        }
    }
}

impl DependencyName {
    /// Reads `ns:name`, `ns:name@1.2.3`, `ns:name/iface`, `ns:name/iface@1.2.3` or `plain-name`.
    ///
    /// # Errors
    ///
    /// A sentence about the fault of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains([':', '/', '@']) {
            check_kebab(text)?;
            return Ok(DependencyName::Plain(text.to_owned()));
        }
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => {
                let parsed = Version::parse(version).map_err(|error| {
                    format!("`{version}` is not a version such as 1.2.3 ({error})")
                })?;
                (name, Some(parsed))
            }
        };
        let (package, interface) = match name.split_once('/') {
            None => (name, None),
            Some((package, interface)) => (package, Some(interface)),
        };
        let Some((namespace, bare)) = package.split_once(':') else {
            return Err(format!("`{package}` has no namespace before a colon"));
        };
        for word in [namespace, bare].into_iter().chain(interface) {
            check_kebab(word)?;
        }
        Ok(DependencyName::Package {
            package: package.to_owned(),
            interface: interface.map(str::to_owned),
            version,
        })
    }

    /// Returns whether two dependencies could claim the same import.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (DependencyName::Plain(a), DependencyName::Plain(b)) => a == b,
            (
                DependencyName::Package {
                    package: package_a,
                    interface: interface_a,
                    version: version_a,
                },
                DependencyName::Package {
                    package: package_b,
                    interface: interface_b,
                    version: version_b,
                },
            ) => {
                let interfaces = match (interface_a, interface_b) {
                    (Some(a), Some(b)) => a == b,
                    _ => true,
                };
                let versions = match (version_a, version_b) {
                    (Some(a), Some(b)) => compatible(a, b),
                    _ => true,
                };
                package_a == package_b && interfaces && versions
            }
            _ => false,
        }
    }
}

/// Returns whether one version of an interface may replace another. This is the rule of the component model: the first part
/// that is not zero must agree, and pre-releases agree only with themselves.
pub(crate) fn compatible(a: &Version, b: &Version) -> bool {
    if !a.pre.is_empty() || !b.pre.is_empty() {
        return a == b;
    }
    match (a.major, a.minor) {
        (0, 0) => (a.major, a.minor, a.patch) == (b.major, b.minor, b.patch),
        (0, _) => (a.major, a.minor) == (b.major, b.minor),
        _ => a.major == b.major,
    }
}

/// Words of letters and digits joined by single hyphens, each starting with a letter.
pub(super) fn check_kebab(text: &str) -> Result<(), String> {
    check_words(text, '-', true)
}

pub(super) fn check_words(text: &str, separator: char, upper_allowed: bool) -> Result<(), String> {
    for word in text.split(separator) {
        let starts_with_a_letter = word.starts_with(|c: char| c.is_ascii_alphabetic());
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric());
        let one_case = !word.contains(|c: char| c.is_ascii_uppercase())
            || upper_allowed && !word.contains(|c: char| c.is_ascii_lowercase());
        if !(starts_with_a_letter && plain && one_case) {
            return Err(format!(
                "`{text}` is not made of lower-case words of letters and digits joined by `{separator}`"
            ));
        }
    }
    Ok(())
}
