//! Judges the facts: what is right, what is wrong, and what to do about it. Pure.
//!
//! A fault makes volumes fail. A warning is for what is slower, weaker, or perhaps unintended.

mod containers;
mod entries;
mod kubelet;

use kernel::calls::Row;
use mounts::Errno;

use super::facts::{CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SYS_PTRACE, Facts, MOUNT_EVENTS, Node};
use super::report::{Item, Section};

/// With more mounts than this, reading the whole table makes each publish noticeably slower (2 µs per mount).
const MANY_MOUNTS: u64 = 5_000;

/// The items of the report, in order.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Item> {
    let mut items = Vec::new();
    calls(facts, &mut items);
    items.push(capabilities(facts));
    if let Ok(node) = &facts.node {
        items.push(mount_call(facts, node));
        items.extend(facts.mount_max.map(|max| mount_max(node.mounts, max)));
    }
    kubelet::judge(facts, &mut items);
    entries::judge(facts, &mut items);
    if let Ok(node) = &facts.node {
        containers::judge(&node.containers, &mut items);
    }
    items
}

/// Release `6.18.5-amd64` as (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn calls(facts: &Facts, items: &mut Vec<Item>) {
    let there: Vec<&str> = facts.calls.iter().filter(|c| c.refused.is_none()).map(|c| c.name).collect();
    if !there.is_empty() {
        let all = if there.len() == facts.calls.len() { "all there" } else { "there" };
        items.push(Item::ok(Section::Node, "kernelCalls", format!("kernel calls {}", there.join(", ")), all));
    }
    items.extend(facts.calls.iter().filter_map(|call| call.refused.map(|errno| missing_call(facts, call, errno))));
}

fn missing_call(facts: &Facts, call: &Row, errno: Errno) -> Item {
    let (major, minor) = call.since;
    let too_old = version(&facts.release).is_some_and(|found| found < call.since);
    let events = call.name == MOUNT_EVENTS;
    let without_statmount = facts.calls.iter().any(|other| other.name == "statmount" && other.refused.is_some());
    let (why, advice) = if too_old {
        (format!("this Linux is older than {major}.{minor}"), format!("run Linux {major}.{minor} or newer"))
    } else if errno == Errno::EPERM && !facts.own.holds(CAP_SYS_ADMIN) {
        ("refused (EPERM) for lack of CAP_SYS_ADMIN".to_owned(), "see the capabilities below".to_owned())
    } else if events && without_statmount {
        ("of no use without statmount".to_owned(), "see statmount above".to_owned())
    } else if events && errno == Errno::EPERM {
        let why = "refused (EPERM): by a seccomp profile, or because root of this user namespace is not the node's";
        (why.to_owned(), "run it as the node's root; in the pod, leave out hostUsers: false".to_owned())
    } else {
        let advice = "update the container runtime, whose seccomp profile does not know the call yet, or give the \
                      container a seccomp profile that allows it";
        (format!("this Linux has it, but answers {errno:?}: a seccomp profile refuses it"), advice.to_owned())
    };
    let mounts = facts.node.as_ref().map_or(0, |node| node.mounts);
    let (loss, instead) = match call.name {
        "openat2" => (false, "paths are walked name by name instead"),
        "move_mount" => (false, "mount(2) moves mounts instead"),
        "MOVE_MOUNT_BENEATH" => (
            false,
            "a mount that is replaced is taken off first instead: a plugin that is killed just then leaves its place bare",
        ),
        "mount_setattr" => {
            (true, "flags are set mount by mount instead, so that a mount which comes in meanwhile lacks them")
        }
        MOUNT_EVENTS => (
            mounts >= MANY_MOUNTS,
            "a change of the mount table is told without its mount, so the whole table is read, which takes about 2 µs a mount",
        ),
        _ => (
            mounts >= MANY_MOUNTS,
            "the mount table is read instead, for calls and every 15 s, which takes about 2 µs a mount",
        ),
    };
    let looked_at = format!("kernel call {}", call.name);
    let found = format!("fallen back from: {why}; {instead}");
    if loss {
        Item::warning(Section::Node, "kernelCalls", looked_at, found).advise(advice)
    } else {
        Item::ok(Section::Node, "kernelCalls", looked_at, found)
    }
}

fn capabilities(facts: &Facts) -> Item {
    let needed = [
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "SYS_ADMIN"),
        (CAP_SYS_CHROOT, "CAP_SYS_CHROOT", "SYS_CHROOT"),
        (CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "SYS_PTRACE"),
    ];
    let (held, missing): (Vec<_>, Vec<_>) = needed.into_iter().partition(|(bit, ..)| facts.own.holds(*bit));
    let names = |list: &[(u32, &'static str, &str)]| list.iter().map(|c| c.1).collect::<Vec<_>>().join(", ");
    if missing.is_empty() {
        return Item::ok(Section::Node, "capabilities", "capabilities", format!("{} are held", names(&held)));
    }
    let held = if held.is_empty() { "none of those needed".to_owned() } else { names(&held) };
    let add: Vec<&str> = missing.iter().map(|c| c.2).collect();
    let found = format!("{} not held (held: {held})", names(&missing));
    Item::fault(Section::Node, "capabilities", "capabilities", found).advise(format!(
        "on the node, run the check as root; in the pod, add them to its container's securityContext: \
         capabilities: {{drop: [ALL], add: [{}]}}",
        add.join(", ")
    ))
}

/// The likely cause of a refused call, given this process's rights, and the advice.
fn refused_by(facts: &Facts, errno: Errno) -> (String, String) {
    if errno == Errno::EPERM && !facts.own.holds(CAP_SYS_ADMIN) {
        return ("CAP_SYS_ADMIN is not held".to_owned(), "see the capabilities above".to_owned());
    }
    if errno == Errno::EPERM && facts.own.seccomp {
        let advice = "set seccompProfile: {type: RuntimeDefault} in the container's securityContext: the runtime's \
                      own profile allows mounts to who holds CAP_SYS_ADMIN";
        return ("a seccomp filter is in force".to_owned(), advice.to_owned());
    }
    match &facts.own.confined {
        Some(name) => (
            format!("the security module confines this process as {name:?}"),
            "set appArmorProfile: {type: Unconfined} in the container's securityContext (with SELinux: \
             seLinuxOptions: {type: spc_t}); AppArmor's default profile for containers denies every mount"
                .to_owned(),
        ),
        None => (
            "neither a seccomp filter nor a security module is known".to_owned(),
            "look for the refusal in the kernel's log".to_owned(),
        ),
    }
}

fn mount_call(facts: &Facts, node: &Node) -> Item {
    let looked_at = format!("mount(2) at {}", facts.kubelet_dir);
    match node.mount_allowed {
        None => {
            Item::skipped(Section::Node, "mountCall", looked_at, "not tried, because the directory can't be opened")
        }
        Some(Ok(())) => Item::ok(Section::Node, "mountCall", looked_at, "let through (tried without effect)"),
        Some(Err(errno)) => {
            let (why, advice) = refused_by(facts, errno);
            let item = Item::fault(Section::Node, "mountCall", looked_at, format!("refused with {errno:?}; {why}"));
            if advice.contains("kernel's log") {
                item.advise(advice).run("dmesg | grep -i -e apparmor -e avc -e audit | tail")
            } else {
                item.advise(advice)
            }
        }
    }
}

fn mount_max(mounts: u64, max: u64) -> Item {
    let percent = mounts.saturating_mul(100) / max.max(1);
    let found = format!("{mounts} mounts of at most {max} ({percent} %)");
    let looked_at = "fs.mount-max in the kubelet's mount namespace";
    let item = match percent {
        0..50 => return Item::ok(Section::Node, "mountMax", looked_at, found),
        50..95 => Item::warning(Section::Node, "mountMax", looked_at, found),
        _ => Item::fault(Section::Node, "mountMax", looked_at, format!("{found}: mounts will fail with ENOSPC")),
    };
    item.advise("find out what makes so many, such as a driver that mounts twice; or raise the limit")
        .run("findmnt --noheadings --list -o TARGET | sort | uniq -c | sort -rn | head")
        .run(format!("sysctl -w fs.mount-max={}", max.saturating_mul(2)))
}

/// A command to run in the kubelet's mount namespace.
fn on_node(facts: &Facts, command: &str) -> String {
    let kubelet = &facts.kubelet;
    // A shell on the node is usually in the namespace of process 1.
    if kubelet.namespace.ok() == kubelet.first_namespace {
        command.to_owned()
    } else {
        format!("nsenter --target {} --mount -- {command}", kubelet.process.pid)
    }
}

#[cfg(test)]
mod tests;
