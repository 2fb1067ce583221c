//! What the machine has: cores and free memory.

use std::collections::HashSet;
use std::fs;

/// Cores, not hardware threads, as far as the system tells; never more than this process may use.
pub fn physical_cores() -> usize {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    linux_cores().map_or(usable, |cores| cores.clamp(1, usable))
}

/// Counts pairs of package and core; `None` where the system has no such files.
fn linux_cores() -> Option<usize> {
    let mut cores = HashSet::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let name = entry.file_name();
        let is_cpu = name.to_str().and_then(|name| name.strip_prefix("cpu")).is_some_and(|n| n.parse::<u32>().is_ok());
        if !is_cpu {
            continue;
        }
        let topology = entry.path().join("topology");
        let read = |file: &str| fs::read_to_string(topology.join(file)).ok();
        if let (Some(package), Some(core)) = (read("physical_package_id"), read("core_id")) {
            cores.insert((package, core));
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Bytes that programs can take without swapping; `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    let memory = available_in(&fs::read_to_string("/proc/meminfo").ok()?)?;
    // A container may hold less than the machine.
    let read =
        |file: &str| -> Option<u64> { fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok() };
    match (read("memory.max"), read("memory.current")) {
        (Some(max), Some(current)) => {
            // What is cached from files counts as current but is given up on demand.
            let cached = fs::read_to_string("/sys/fs/cgroup/memory.stat").ok().and_then(|stat| cached_in(&stat));
            Some(memory.min(max.saturating_sub(current.saturating_sub(cached.unwrap_or(0)))))
        }
        _ => Some(memory),
    }
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cached_in(memory_stat: &str) -> Option<u64> {
    memory_stat.lines().find_map(|line| line.strip_prefix("file "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core_and_no_more_than_may_be_used() {
        let usable = std::thread::available_parallelism().unwrap().get();
        assert!((1..=usable).contains(&physical_cores()));
    }

    #[test]
    fn free_memory_is_read_from_what_linux_writes() {
        assert_eq!(available_in("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_in("MemTotal:  9 kB\n"), None);
        assert_eq!(available_in("MemAvailable: many\n"), None);
        assert_eq!(cached_in("anon 5\nfile 77\n"), Some(77));
    }
}
