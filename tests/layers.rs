//! The layers of the source, checked on its text: what each file may name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

/// The files that decide: data in, data out.
const PURE: &[&str] = &[
    "plan.rs",
    "policy.rs",
    "idmap.rs",
    "pod.rs",
    "pod/known.rs",
    "pod/object.rs",
    "propagation.rs",
    "volume.rs",
    "config.rs",
    "config/decode.rs",
    "containers.rs",
    "containers/judge.rs",
    "containers/scan.rs",
    "heal/notice.rs",
    "inspect/columns.rs",
    "inspect/draw.rs",
    "inspect/fold.rs",
    "inspect/json.rs",
    "inspect/relations.rs",
    "inspect/select.rs",
    "inspect/subtree.rs",
    "text.rs",
    "machine.rs",
    "subtrees.rs",
    "subtrees/attach.rs",
    "subtrees/copy.rs",
    "subtrees/dentry.rs",
    "subtrees/detach.rs",
    "subtrees/gathered.rs",
    "subtrees/namespace.rs",
    "subtrees/operation.rs",
    "subtrees/receivers.rs",
    "subtrees/relation.rs",
    "subtrees/showing.rs",
    "subtrees/unmounting.rs",
    "subtrees/tests.rs",
    "subtrees/walk.rs",
    "author.rs",
    "paint.rs",
    "explain/index.rs",
    "explain/judge.rs",
    "explain/remedy.rs",
    "explain/report.rs",
    "machine/names.rs",
    "machine/whereabouts.rs",
    "check/facts.rs",
    "check/judge.rs",
    "check/judge/containers.rs",
    "check/judge/entries.rs",
    "check/judge/kubelet.rs",
    "check/judge/tests.rs",
    "check/kubelet.rs",
    "check/report.rs",
    "picture.rs",
    "picture/dot.rs",
    "picture/html.rs",
    "picture/layout.rs",
    "picture/legend.rs",
    "picture/outline.rs",
    "picture/outline/images.rs",
    "picture/outline/tree.rs",
    "picture/reach.rs",
    "picture/svg.rs",
    "picture/text.rs",
    "volumes/choose.rs",
    "volumes/model.rs",
    "volumes/show.rs",
    "watch/cut.rs",
    "watch/diff.rs",
    "watch/ledger.rs",
    "watch/origin.rs",
    "watch/show.rs",
];
/// What would give a pure file the means to do something, or tie it to the transport.
const IMPURE: [(&str, &str); 14] = [
    ("tokio", "an async runtime: deciding waits for nothing"),
    ("tonic", "the transport: only src/csi knows gRPC"),
    ("prost", "the wire format: only src/csi and src/wire.rs know it"),
    ("nix", "system calls: those are made in src/sys"),
    ("libc", "system calls: those are made in src/sys"),
    ("linux_raw_sys", "system calls: those are made in src/sys"),
    ("std::fs", "files: reading them is left to src/observe.rs and src/config/reload.rs"),
    ("std::io", "input and output"),
    ("std::os::fd", "descriptors: holding one means that something was opened"),
    ("std::process", "processes"),
    ("std::net", "the network"),
    ("std::thread", "threads: those are started in src/threads.rs"),
    ("std::env", "the environment: only the command line is configuration"),
    ("std::time::SystemTime", "the clock"),
];
/// The plain data of `crate::sys` that pure files may name. Everything else there is a system call or holds a
/// descriptor.
const SYS_DATA: [&str; 5] = ["Errno", "mount::Change", "stat::DirId", "stat::MountAttrs", "stat::MountFacts"];
/// The modules of this crate that do things. `observe` is missing on purpose, see [`OBSERVE_DATA`].
const DOERS: [&str; 16] = [
    "admin",
    "apply",
    "csi",
    "engine",
    "held",
    "lookup",
    "machine::gather",
    "plugin",
    "registration",
    "serve",
    "site",
    "socket",
    "telemetry",
    "threads",
    "try_out",
    "workshop",
];
/// What pure files may take from `observe`: a plain enumeration of the configuration.
const OBSERVE_DATA: [&str; 1] = ["IfMissing"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file by its path beneath `src`, without its tests (`#[cfg(test)]` to the end, as is the custom
/// here), comments and the contents of strings.
fn sources() -> Vec<(String, String)> {
    fn walk(at: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&src(), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            (path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned(), code_of(text))
        })
        .collect()
}

/// The text with comments and the contents of string literals left out. Line breaks stay, for the line numbers.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|&c| c != '\n').is_some() {},
            '"' => {
                code.push('"');
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => code.extend(rest.next().filter(|&c| c == '\n')),
                        '"' => break,
                        '\n' => code.push('\n'),
                        _ => {}
                    }
                }
                code.push('"');
            }
            // A quote or backslash as a character; lifetimes stay.
            '\'' if matches!(rest.peek(), Some('"' | '\\')) => {
                if rest.next() == Some('\\') {
                    rest.next();
                }
                rest.next();
                code.push_str("' '");
            }
            _ => code.push(c),
        }
    }
    code
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The lines on which a path or word stands by itself: `nix` in `use nix::…` and `::nix::…`, not in `phoenix`.
fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(word) {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        if !before.is_some_and(is_word) && !after.is_some_and(is_word) {
            found.push(code[..at].matches('\n').count() + 1);
        }
    }
    found
}

/// Everything that a file takes from a module of this crate: `a::{b, c::D}` gives `b` and `c::D`.
fn taken_from(code: &str, module: &str) -> Vec<String> {
    let start = format!("crate::{module}");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&start) {
        let rest = &code[at + start.len()..];
        if let Some(path) = rest.strip_prefix("::") {
            expand("", path, &mut found);
        } else if !rest.starts_with(is_word) {
            found.push("self".to_owned());
        }
    }
    found
}

/// Expands one path of a `use` (or a path in the code) into its leaves; gives back what follows it.
fn expand<'a>(prefix: &str, path: &'a str, found: &mut Vec<String>) -> &'a str {
    if let Some(mut rest) = path.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            rest = expand(prefix, rest, found).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }
    let end = path.find(|c: char| !is_word(c) && c != '*').unwrap_or(path.len());
    assert!(end > 0, "not a path: {:?}", path.lines().next());
    let name = &path[..end];
    let joined = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    // A type's associated items are the type's.
    if let Some(after) = path[end..].strip_prefix("::")
        && name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return expand(&joined, after, found);
    }
    found.push(joined);
    let rest = &path[end..];
    rest.strip_prefix(" as ").map_or(rest, |alias| alias.trim_start_matches(is_word))
}

fn is_pure(name: &str) -> bool {
    PURE.contains(&name) || name.starts_with("tree/") || name == "tree.rs"
}

#[test]
fn what_decides_can_do_nothing() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for (name, code) in sources().iter().filter(|(name, _)| is_pure(name)) {
        seen += 1;
        for (word, why) in IMPURE {
            for line in lines_with(code, word) {
                faults.push(format!("src/{name}:{line}: a file that decides must not name `{word}` ({why})"));
            }
        }
        for taken in taken_from(code, "sys") {
            if !SYS_DATA.contains(&taken.as_str()) {
                faults.push(format!(
                    "src/{name}: takes `crate::sys::{taken}`; of the system layer a file that decides may name plain \
                     data only: {SYS_DATA:?}. Give it the answer as a value instead"
                ));
            }
        }
        for taken in taken_from(code, "observe") {
            if !OBSERVE_DATA.contains(&taken.as_str()) {
                faults.push(format!("src/{name}: takes `crate::observe::{taken}`; observing is done before deciding"));
            }
        }
        for module in DOERS {
            if !taken_from(code, module).is_empty() {
                faults.push(format!(
                    "src/{name}: names `crate::{module}`, which does things; it is called the other way round"
                ));
            }
        }
    }
    assert_eq!(seen, PURE.len() + 2, "a pure file was renamed or added: name it in PURE");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn unsafe_stands_behind_the_fence() {
    for (name, code) in sources() {
        if !name.starts_with("sys/") {
            let lines = lines_with(&code, "unsafe");
            assert!(
                lines.is_empty(),
                "src/{name}:{lines:?}: `unsafe` belongs in src/sys, where each block is reviewed"
            );
        }
    }
}

#[test]
fn statuses_are_made_in_one_place() {
    for (name, code) in sources() {
        if name == "csi/status.rs" {
            continue;
        }
        // `Self::` and `ExitStatus::` are other words.
        let calls = |line: &str| line.match_indices("Status::").any(|(at, _)| !line[..at].ends_with(is_word));
        let lines: Vec<usize> = code.lines().enumerate().filter(|(_, line)| calls(line)).map(|(n, _)| n + 1).collect();
        assert!(
            lines.is_empty(),
            "src/{name}:{lines:?}: a gRPC status is made only in src/csi/status.rs, so that one table says which \
             error gives which code"
        );
    }
}

/// Who may say of a text that the author of a pod knows it (`author::KnownText`): who reads it from the request, or from names that
/// Kubernetes objects have.
const KNOWN_BY_AUTHORS: [&str; 5] = ["author.rs", "author/refusals.rs", "csi/request.rs", "events.rs", "plugin.rs"];

#[test]
fn few_files_say_that_an_author_knows_a_text() {
    for (name, code) in sources() {
        // Only tests make some of their own.
        if KNOWN_BY_AUTHORS.contains(&name.as_str()) || name == "author/refusals/tests.rs" {
            continue;
        }
        let lines = lines_with(&code, "KnownText");
        assert!(
            lines.is_empty(),
            "src/{name}:{lines:?}: `KnownText` lets a text into pods' events; use the types of `author::Known`, or say here why \
             a pod's author has this text already"
        );
    }
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(code_of("a // unsafe\n\"unsafe \\\" x\" '\"' 'a b"), "a \n\"\" ' ' 'a b");
    assert_eq!(lines_with("use nix::x;\nphoenix nixes\n::nix", "nix"), [1, 3]);
    assert_eq!(
        taken_from(
            "use crate::sys::{Errno, mount::{self, Change as C}, stat};\ncrate::sys::path::open(); crate::system",
            "sys"
        ),
        ["Errno", "mount::self", "mount::Change", "stat", "path::open"]
    );
    assert_eq!(taken_from("use crate::sys;", "sys"), ["self"]);
}
