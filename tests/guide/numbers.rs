//! The numbers that the kernel gives out differ from run to run: they are counted anew, in the order in which a section
//! shows them. Equal numbers stay equal and different ones different, in the text and in the pictures, and nothing else is
//! changed. They are: peer groups, mount ids, devices, inodes of namespaces, process numbers; and how many mounts a whole
//! namespace has, which is the machine's affair, is always written as 30.

use std::collections::HashMap;
use std::sync::LazyLock;

use model::machine::Machine;
use regex::Regex;

/// What a number is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Group,
    Process,
    Device,
    Mount,
    Inode,
}

impl Kind {
    /// Where its count begins: the numbers look like those of the kernel, and are as wide as most of them.
    const fn first(self) -> u64 {
        match self {
            Self::Group => 1,
            Self::Process => 11,
            Self::Device => 40,
            Self::Mount => 101,
            Self::Inode => 4_026_532_001,
        }
    }
}

/// The numbers that a section has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    known: HashMap<(Kind, u64), u64>,
    counts: HashMap<Kind, u64>,
}

/// Where numbers stand in what commands print. The names of the groups say what they are of; a digit makes them differ.
static PLACES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        // mountinfo
        r"(?m)^(?<mount1>\d+) (?<mount2>\d+) 0:(?<device1>\d+) ",
        // its optional fields, and what hostmount makes of them
        r"|(?:shared|master|slave|propagate_from):(?<group1>\d+)",
        r"|peer groups? (?<group2>\d+)",
        r"|\b(?<group3>\d+)(?: = |: no other|: /)",
        // explain, watch
        r"|(?:peer|slave) \(?(?:of|in) (?<group4>\d+)",
        r"|--target (?<process2>\d+)",
        // ls -l /proc/PID/ns, inspect
        r"|mnt:\[(?<inode1>\d+)\](?: · (?<mounts>\d+) mounts)?",
        // NAME (PID)
        r"|[\w.-]+ \((?<process1>\d+)\)",
    ))
    .unwrap()
});

impl Numbers {
    fn of(&mut self, kind: Kind, number: u64) -> u64 {
        if kind == Kind::Process && number == 1 {
            return 1;
        }
        let count = self.counts.entry(kind).or_insert(kind.first());
        *self.known.entry((kind, number)).or_insert_with(|| std::mem::replace(count, *count + 1))
    }

    /// A text with its numbers counted anew. Columns stay where they were: what a number loses or gains in width is
    /// made up for in the next gap of its line.
    pub(crate) fn renumber(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut owed = 0isize;
        let mut at = 0;
        for found in PLACES.captures_iter(text) {
            for name in PLACES.capture_names().flatten() {
                let Some(number) = found.name(name) else { continue };
                let new = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
                    "mounts" => 30,
                    kind => {
                        let kind = match kind {
                            "mount" => Kind::Mount,
                            "device" => Kind::Device,
                            "group" => Kind::Group,
                            "inode" => Kind::Inode,
                            _ => Kind::Process,
                        };
                        self.of(kind, number.as_str().parse().unwrap())
                    }
                };
                copy(&mut out, &text[at..number.start()], &mut owed);
                let new = new.to_string();
                owed += number.len().cast_signed() - new.len().cast_signed();
                out += &new;
                at = number.end();
            }
        }
        copy(&mut out, &text[at..], &mut owed);
        out
    }

    /// A machine with its numbers counted anew, in the order in which a reader meets them.
    pub(crate) fn renumbered(&mut self, mut machine: Machine) -> Machine {
        for namespace in &mut machine.namespaces {
            namespace.inode = self.of(Kind::Inode, namespace.inode);
            for process in &mut namespace.processes {
                let pid = self.of(Kind::Process, process.pid.unsigned_abs().into());
                process.pid = i32::try_from(pid).unwrap();
            }
            for mount in &mut namespace.table.mounts {
                mount.id = self.of(Kind::Mount, mount.id);
                mount.parent = self.of(Kind::Mount, mount.parent);
                let mut group = |number: Option<u64>| number.map(|number| self.of(Kind::Group, number));
                let (peers, master) = (group(mount.propagation.peer_group), group(mount.propagation.master));
                (mount.propagation.peer_group, mount.propagation.master) = (peers, master);
            }
        }
        machine
    }
}

/// Copies what lies between two numbers, with the spaces that are owed in its first gap, or without those that are lent.
fn copy(out: &mut String, text: &str, owed: &mut isize) {
    let line = text.find('\n').unwrap_or(text.len());
    let Some(gap) = text[..line].find("  ") else {
        *out += text;
        if line < text.len() {
            *owed = 0;
        }
        return;
    };
    let rest = text[gap..].trim_start_matches(' ');
    let wide = text.len() - gap - rest.len();
    *out += &text[..gap];
    *out += &" ".repeat(wide.saturating_add_signed(*owed).max(1));
    *out += rest;
    *owed = 0;
}

/// A text with every gap within a line as one space: the width of columns depends on the width of numbers.
pub(crate) fn spaced(text: &str) -> String {
    static GAP: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\S) +").unwrap());
    text.lines().map(|line| GAP.replace_all(line.trim_end(), "$1 ") + "\n").collect()
}

#[test]
fn equal_numbers_stay_equal_and_columns_stay_where_they_are() {
    let mut numbers = Numbers::default();
    let text = "12 9 0:77 / /a rw shared:412 - t\n13 12 0:77 / /b rw shared:412 master:7 - t\n";
    assert_eq!(
        numbers.renumber(text),
        "101 102 0:40 / /a rw shared:1 - t\n103 101 0:40 / /b rw shared:1 master:2 - t\n"
    );
    assert_eq!(numbers.renumber("412 = /b on the node  y\n"), "1 = /b on the node    y\n");
    assert_eq!(numbers.renumber("x (5)  y\nx (9) y  z\n"), "x (11) y\nx (12) y z\n");
    assert_eq!(
        numbers.renumber("bash (1), pod (20) · mnt:[4026538356] · 24 mounts\n"),
        "bash (1), pod (13) · mnt:[4026532001] · 30 mounts\n"
    );
    assert_eq!(numbers.renumber("3 files, 12:30, tmpfs 64\n"), "3 files, 12:30, tmpfs 64\n", "nothing else is changed");
    assert_ne!(numbers.renumber("shared:7\n"), numbers.renumber("shared:8\n"));
    assert_eq!(spaced("a   b  \n  c"), "a b\n  c\n");
}
