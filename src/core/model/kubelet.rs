//! Finds the kubelet among processes, and its `--root-dir`. Pure.

/// The command names of the kubelet, likeliest first: the kubelet itself (kubeadm, k0s, RKE2, OpenShift), microk8s'
/// kubelite, k3s, MicroShift.
pub const NAMES: [&str; 6] = ["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s", "microshift"];

/// The kubelet's directory in distributions that don't use `/var/lib/kubelet`: k0s, microk8s.
pub const DIRECTORIES: [&str; 3] =
    ["/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet"];

/// A process that may be the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number in our PID namespace.
    pub pid: i32,
    /// The name of its command, cut to 15 bytes by the kernel.
    pub name: String,
    /// How many PID namespaces deeper than ours it runs.
    pub depth: usize,
}

fn rank(process: &Process) -> Option<usize> {
    NAMES.iter().position(|name| *name == process.name)
}

/// The node's kubelet, and the pids of other candidates that are as likely. A kubelet in a deeper PID namespace is
/// another node's: that node is a container on this one.
#[must_use]
pub fn choose(processes: &[Process]) -> Option<(&Process, Vec<i32>)> {
    let likely = |p: &Process| rank(p).map(|rank| (p.depth, rank));
    let chosen = processes.iter().filter(|p| rank(p).is_some()).min_by_key(|p| (likely(p), p.pid))?;
    let others = processes.iter().filter(|p| p.pid != chosen.pid && likely(p) == likely(chosen));
    Some((chosen, others.map(|p| p.pid).collect()))
}

/// The `--root-dir` of a command line in /proc's form: arguments that each end with NUL.
#[must_use]
pub fn root_dir(command_line: &[u8]) -> Option<String> {
    let arguments: Vec<&str> =
        command_line.split(|&b| b == 0).filter_map(|argument| std::str::from_utf8(argument).ok()).collect();
    // k3s passes arguments to its kubelet: --kubelet-arg=root-dir=DIR.
    let given = |argument: &str| {
        ["--root-dir=", "--kubelet-arg=root-dir=", "--kubelet-arg=--root-dir="]
            .iter()
            .find_map(|option| argument.strip_prefix(option).map(str::to_owned))
    };
    let next = || arguments.iter().skip_while(|a| **a != "--root-dir").nth(1).map(|dir| (*dir).to_owned());
    // A repeated flag: the last one counts.
    arguments.iter().rev().find_map(|argument| given(argument)).or_else(next).filter(|dir| !dir.is_empty())
}

/// How many PID namespaces deeper than ours a process runs, from its status file (proc_pid_status(5), NSpid).
#[must_use]
pub fn depth(status: &str) -> usize {
    field(status, "NSpid").map_or(0, |pids| pids.split_whitespace().count().saturating_sub(1))
}

/// A field of a status file.
#[must_use]
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, name: &str, depth: usize) -> Process {
        Process { pid, name: name.to_owned(), depth }
    }

    #[test]
    fn the_kubelet_is_found_among_others() {
        let all = [process(1, "systemd", 0), process(40, "k3s-server", 0), process(50, "kubelet", 1)];
        let (chosen, others) = choose(&all).unwrap();
        assert_eq!((chosen.pid, others), (40, vec![]), "one in a container is another node's");
        let all = [process(9, "kubelite", 0), process(7, "kubelet", 0), process(5, "kubelet", 0)];
        let (chosen, others) = choose(&all).unwrap();
        assert_eq!((chosen.pid, others), (5, vec![7]));
        assert_eq!(choose(&[process(1, "systemd", 0), process(2, "kubelet-wrapper", 0)]), None);
    }

    #[test]
    fn the_root_directory_is_read_from_the_command_line() {
        for line in [
            "kubelet\0--v=2\0--root-dir=/d\0",
            "kubelet\0--root-dir\0/d\0--v=2\0",
            "k3s\0server\0--kubelet-arg=root-dir=/d\0",
            "kubelet\0--root-dir=/x\0--root-dir=/d\0",
        ] {
            assert_eq!(root_dir(line.as_bytes()).as_deref(), Some("/d"), "{line:?}");
        }
        for line in ["kubelet\0--v=2\0", "kubelet\0--root-dir", "kubelet\0--root-dir=\0", ""] {
            assert_eq!(root_dir(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn status_fields_are_found_by_their_whole_name() {
        let status = "Name:\tx\nNSpid:\t120\t7\nCapEff:\t0000000000000003\nSeccomp:\t2\n";
        assert_eq!((depth(status), depth("Name:\tx\n")), (1, 0));
        assert_eq!(field(status, "CapEff"), Some("0000000000000003"));
        assert_eq!(field(status, "Cap"), None);
    }
}
