//! The memory that this process may take: the limit of its container, otherwise the machine's RAM.
//!
//! Reads the files of Linux itself, as the standard library does for the processors of a container. Crates that tell
//! the limit bring a monitor of the whole system along, or look at one level of the hierarchy only.

use std::path::{Path, PathBuf};

/// Above this, a limit of cgroup v1 means that there is none.
const NO_LIMIT: u64 = 1 << 62;

/// Returns the smallest memory limit of the process's cgroup and those above it, or the machine's RAM if that is
/// smaller. Returns `None` where the system tells neither.
pub(super) fn available_memory() -> Option<u64> {
    below(Path::new("/"))
}

/// Does the work of [`available_memory`] on the files below `root`.
fn below(root: &Path) -> Option<u64> {
    let ram = ram(&root.join("proc/meminfo"));
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(ram).min()
}

/// Returns the machine's RAM in bytes from the text of /proc/meminfo.
fn ram(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = kilobytes.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Returns the memory limits of the group in a line of /proc/self/cgroup, and of the groups above it.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let mount = root.join(mount);
    let group: PathBuf = Path::new(group)
        .components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)))
        .collect();
    let of = |folder: &Path| {
        let text = std::fs::read_to_string(mount.join(folder).join(file)).ok()?;
        text.trim().parse().ok().filter(|&limit| limit < NO_LIMIT)
    };
    group.ancestors().filter_map(of).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Returns what is read where these files have these texts.
    fn read(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        below(root.path())
    }

    const RAM: (&str, &str) = ("proc/meminfo", "MemFree:  1 kB\nMemTotal:       4000000 kB\n");

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let group = ("proc/self/cgroup", "0::/system.slice/maskclip.service\n");
        let own = ("sys/fs/cgroup/system.slice/maskclip.service/memory.max", "3000000000\n");
        let above = ("sys/fs/cgroup/system.slice/memory.max", "2000000000\n");
        let none = ("sys/fs/cgroup/system.slice/maskclip.service/memory.max", "max\n");
        assert_eq!(read(&[RAM, group, own, above]), Some(2_000_000_000));
        assert_eq!(read(&[RAM, group, none]), Some(4_096_000_000));
        // In a container with a name space of its own, its group is the root.
        let inside = ("sys/fs/cgroup/memory.max", "1000000000\n");
        assert_eq!(
            read(&[RAM, ("proc/self/cgroup", "0::/\n"), inside]),
            Some(1_000_000_000)
        );
    }

    #[test]
    fn version_1_of_cgroups_is_read_as_well() {
        let groups = (
            "proc/self/cgroup",
            "11:cpu,cpuacct:/docker/7\n4:memory:/docker/7\n1:name=systemd:/docker/7\n",
        );
        let limit = |text| ("sys/fs/cgroup/memory/docker/7/memory.limit_in_bytes", text);
        assert_eq!(read(&[RAM, groups, limit("500000000\n")]), Some(500_000_000));
        assert_eq!(
            read(&[RAM, groups, limit("9223372036854771712\n")]),
            Some(4_096_000_000)
        );
        // Docker shows the container's own group at the mount's root.
        let root = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "600000000");
        assert_eq!(read(&[RAM, groups, root]), Some(600_000_000));
    }

    #[test]
    fn without_limits_it_is_the_ram_and_without_a_system_nothing() {
        assert_eq!(read(&[RAM]), Some(4_096_000_000));
        assert_eq!(
            read(&[RAM, ("proc/self/cgroup", "0::/../..\nnonsense\n")]),
            Some(4_096_000_000)
        );
        assert_eq!(read(&[]), None);
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 28));
    }
}
