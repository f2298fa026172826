//! The kernel's account of a process's memory.

/// A number of kilobytes in a process's status, in bytes.
pub(super) fn status_bytes(pid: Option<u32>, field: &str) -> Option<u64> {
    let path = match pid {
        Some(pid) => format!("/proc/{pid}/status"),
        None => "/proc/self/status".into(),
    };
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = line
        .trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(number * 1024)
}

/// Private memory of this process that could be written to, in use or not.
pub(super) fn mapped_bytes() -> Option<u64> {
    status_bytes(None, "VmData")
}
