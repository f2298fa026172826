//! Reads the facts of a process from the text of `/proc`. The caller reads the files.

/// Facts of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Processor time in seconds, of its own code and of the kernel for it.
    pub cpu_s: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Virtual memory.
    pub virtual_bytes: u64,
    /// The number of threads.
    pub threads: u64,
    /// The time of its start, in seconds since the Unix epoch.
    pub started_s: f64,
}

/// The sizes that a kernel counts in.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// Ticks of the clock in a second.
    pub ticks_per_s: u64,
    /// Bytes of a page of memory.
    pub page_bytes: u64,
}

impl ProcessFacts {
    /// Reads `/proc/<pid>/stat` and the line `btime` of `/proc/stat`; `None` if they have another form.
    pub fn read(own: &str, machine: &str, units: Units) -> Option<Self> {
        // The name of the program is in parentheses, and may contain any character.
        let (_, rest) = own.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and the first two are before the parenthesis.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = units.ticks_per_s.max(1) as f64;
        let booted = machine
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?;
        let booted: u64 = booted.trim().parse().ok()?;
        Some(Self {
            cpu_s: (field(14)? + field(15)?) as f64 / ticks,
            threads: field(20)?,
            started_s: booted as f64 + field(22)? as f64 / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(units.page_bytes),
        })
    }
}

/// Reads the soft limit of open files from `/proc/<pid>/limits`; `None` if there is no limit.
pub fn max_open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: Units = Units {
        ticks_per_s: 100,
        page_bytes: 4096,
    };

    #[test]
    fn the_facts_are_read_whatever_the_program_is_called() {
        let own = "7 (a) b ( c) S 1 7 7 0 -1 4194560 900 0 1 0 250 50 0 0 20 0 12 0 5000 1048576 300 \
                   18446744073709551615 1 1 0 0 0 0 0 4096 17474 0 0 0 17 1 0 0 0 0 0";
        let read = ProcessFacts::read(own, "cpu 1 2 3\nbtime 1700000000\n", UNITS).unwrap();
        assert_eq!(
            read,
            ProcessFacts {
                cpu_s: 3.0,
                resident_bytes: 300 * 4096,
                virtual_bytes: 1 << 20,
                threads: 12,
                started_s: 1_700_000_050.0,
            }
        );
        for (own, machine) in [("", "btime 1\n"), (own, ""), ("7 (a) S 1", "btime 1\n")] {
            assert_eq!(ProcessFacts::read(own, machine, UNITS), None);
        }
    }

    #[test]
    fn this_process_has_sound_facts() {
        let read = |path| std::fs::read_to_string(path).unwrap();
        let facts =
            ProcessFacts::read(&read("/proc/self/stat"), &read("/proc/stat"), UNITS).unwrap();
        assert!(facts.threads >= 1 && facts.resident_bytes > 0);
        assert!(facts.started_s > 1_600_000_000.0);
        assert!(max_open_files(&read("/proc/self/limits")).is_none_or(|most| most > 0));
    }

    #[test]
    fn no_limit_of_open_files_is_none() {
        let line = |soft| {
            format!("Limit  Soft  Hard  Units\nMax open files            {soft}  4096  files\n")
        };
        assert_eq!(max_open_files(&line("1024")), Some(1024));
        assert_eq!(max_open_files(&line("unlimited")), None);
    }
}
