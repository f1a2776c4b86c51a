//! docs/propagation.md is true: every command in it is run, what it prints is compared, and every picture is drawn again
//! from the state that the commands have made.
//!
//! Each section is a session of its own: the blocks of the first section, "Before you start", and then the section's, typed
//! into one bash, in namespaces of their own, as any user. What has to vary (numbers that the kernel gives out) is
//! renumbered, see [`numbers`]. After a change of the text or of the tool:
//!
//!     HOSTMOUNT_UPDATE=1 cargo test --test guide
//!
//! writes the outputs and the pictures anew; read what `git diff` says of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod document;
mod numbers;
#[allow(dead_code, reason = "the chart's tests use all of it")]
#[path = "../chart/render.rs"]
mod render;
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use document::{Document, Part, Section};
use mounts::propagation::MountPropagation;
use numbers::Numbers;
use tools::picture::{self, Options};

const GUIDE: &str = "docs/propagation.md";
/// How each session begins.
const FENCE: &str = "unshare --user --map-root-user --mount ";
/// Ends what a command printed.
const END: char = '\u{1e}';
/// More than a section ever takes, in seconds.
const PATIENCE: &str = "120";

fn update() -> bool {
    std::env::var_os("HOSTMOUNT_UPDATE").is_some()
}

fn guide() -> Document {
    Document::parse(&render::read(GUIDE)).unwrap_or_else(|fault| panic!("{GUIDE}: {fault}"))
}

/// What a section's blocks printed and its pictures, in their order, renumbered.
struct Played {
    outputs: Vec<String>,
    pictures: BTreeMap<String, String>,
}

/// Plays a section in a session of its own, in which the blocks `before` were typed.
fn play(before: &[String], section: &Section) -> Result<Played, String> {
    let mut script = String::new();
    let end = format!("printf '{END}'\n");
    for commands in before {
        script += &format!("{commands}{end}");
    }
    for part in &section.parts {
        match part {
            Part::Run { commands, .. } => script += &format!("{commands}{end}"),
            Part::Picture { .. } => {
                script += &format!("\"$HOSTMOUNT_GUIDE\" dump --exact --ignored --nocapture 2>/dev/null\n{end}");
            }
            Part::Other(_) => {}
        }
    }
    // In place of the shell outside: should it fail, nothing of what follows is done to the machine itself.
    if !script.starts_with(FENCE) {
        return Err(format!("the first command of a session must be {FENCE}"));
    }
    let printed = session(&format!("exec {script}"))?;
    let mut printed = printed.split(END);
    let mut next = || printed.next().ok_or_else(|| "the session ended early".to_owned());
    for commands in before {
        let output = next()?;
        if !output.is_empty() {
            return Err(format!("the preparation printed something:\n{commands}{output}"));
        }
    }
    let mut numbers = Numbers::default();
    let mut played = Played { outputs: Vec::new(), pictures: BTreeMap::new() };
    for part in &section.parts {
        match part {
            Part::Run { .. } => played.outputs.push(numbers.renumber(next()?)),
            Part::Picture { title, file } => {
                let machine = numbers.renumbered(scene::of_lab(scene::read(next()?)?));
                if machine.namespaces.is_empty() {
                    return Err(format!("{file}: nothing to draw"));
                }
                let options = Options { title: title.clone(), all: true };
                played.pictures.insert(file.clone(), picture::svg(&machine, &options));
            }
            Part::Other(_) => {}
        }
    }
    Ok(played)
}

/// Types a script into a shell, as its reader would; gives what the terminal would show.
fn session(script: &str) -> Result<String, String> {
    let tool = PathBuf::from(env!("CARGO_BIN_EXE_hostmount"));
    let path =
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", tool.parent().unwrap().display());
    let (mut output, both) = std::io::pipe().unwrap();
    let mut shell = Command::new("timeout")
        .args([PATIENCE, "bash", "--norc", "--noprofile"])
        .env_clear()
        .envs([("PATH", path.as_str()), ("LC_ALL", "C.UTF-8"), ("HOME", "/"), ("TERM", "dumb")])
        .env("HOSTMOUNT_GUIDE", std::env::current_exe().unwrap())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(both.try_clone().unwrap())
        .stderr(both)
        .spawn()
        .map_err(|e| format!("timeout(1), bash(1): {e}"))?;
    let mut keys = shell.stdin.take().unwrap();
    let script = script.to_owned();
    let typist = std::thread::spawn(move || keys.write_all(script.as_bytes()));
    let mut printed = Vec::new();
    output.read_to_end(&mut printed).unwrap();
    let status = shell.wait().unwrap();
    let printed = String::from_utf8(printed).map_err(|e| e.to_string())?;
    match (typist.join().unwrap(), status.code()) {
        (Ok(()), Some(code)) if code != 124 => Ok(printed),
        (typed, code) => Err(format!("typed: {typed:?}, exit code {code:?}; it printed:\n{printed}")),
    }
}

#[test]
fn every_command_prints_what_the_guide_says_and_every_picture_is_the_tool_s() {
    let mut guide = guide();
    let played: Vec<Mutex<Option<Result<Played, String>>>> = guide.sections.iter().map(|_| Mutex::new(None)).collect();
    let queue = Mutex::new(guide.sections.iter().zip(&played).enumerate());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                loop {
                    let Some((number, (section, place))) = queue.lock().unwrap().next() else { break };
                    *place.lock().unwrap() = Some(play(&guide.before(number), section));
                }
            });
        }
    });
    let mut faults = Vec::new();
    for (section, played) in guide.sections.iter_mut().zip(played) {
        let played = match played.into_inner().unwrap().unwrap() {
            Ok(played) => played,
            Err(fault) => {
                faults.push(format!("{}: {fault}", section.title));
                continue;
            }
        };
        let mut outputs = played.outputs.into_iter();
        for part in &mut section.parts {
            let Part::Run { commands, output, .. } = part else { continue };
            let Some(printed) = outputs.next() else { continue };
            if numbers::spaced(output) == numbers::spaced(&printed) {
                continue;
            }
            if update() {
                *output = printed;
            } else {
                faults.push(format!("{}:\n{commands}prints\n{printed}but the guide says\n{output}", section.title));
            }
        }
        for (file, drawn) in played.pictures {
            let path = render::here("docs").join(&file);
            if update() {
                std::fs::write(path, drawn).unwrap();
            } else if std::fs::read_to_string(&path).unwrap_or_default() != drawn {
                faults.push(format!("{}: docs/{file} isn't what is drawn now", section.title));
            }
        }
    }
    if update() {
        std::fs::write(render::here(GUIDE), guide.text()).unwrap();
    }
    let advice = "HOSTMOUNT_UPDATE=1 cargo test --test guide writes it anew; then read the difference";
    assert!(faults.is_empty(), "\n{}\n{advice}", faults.join("\n"));
}

/// The machine as the tool sees it from within a session. Not a test: the sessions call it.
#[test]
#[ignore = "called within the guide's sessions"]
fn dump() {
    print!("{}", scene::look());
}

#[test]
fn no_picture_lies_there_that_the_guide_does_not_show() {
    let shown: BTreeSet<String> = guide().pictures().map(|file| file.replace("propagation/", "")).collect();
    let there = std::fs::read_dir(render::here("docs/propagation")).unwrap();
    let there: BTreeSet<String> = there.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(shown, there);
}

#[test]
fn every_yaml_is_what_kubernetes_takes() {
    let guide = guide();
    let objects: Vec<_> = guide.blocks("yaml").flat_map(|text| render::objects(&text)).collect();
    render::validate(&objects);
    let mut wishes = BTreeSet::new();
    for object in objects {
        let containers = object["spec"]["containers"].as_array().unwrap().clone();
        for mount in containers.iter().flat_map(|container| container["volumeMounts"].as_array().unwrap()) {
            // What the API's description leaves open: it takes any text here.
            wishes.extend(mount["mountPropagation"].as_str().map(|wish| wish.parse::<MountPropagation>().unwrap()));
        }
    }
    assert_eq!(wishes.len(), MountPropagation::ALL.len(), "the guide shows all three: {wishes:?}");
}

#[test]
fn links_within_the_guide_lead_somewhere() {
    let guide = guide();
    let text = guide.text();
    let anchors: BTreeSet<String> = guide.sections.iter().map(|section| document::anchor(&section.title)).collect();
    let links = regex::Regex::new(r"\]\(#([^)]+)\)").unwrap();
    let dead: Vec<&str> = links
        .captures_iter(&text)
        .map(|link| link.get(1).unwrap().as_str())
        .filter(|link| !anchors.contains(*link))
        .collect();
    assert!(dead.is_empty(), "{dead:?} of {anchors:?}");
    let files = regex::Regex::new(r"\]\(([^)#:]+)\)").unwrap();
    for link in files.captures_iter(&text) {
        let path = render::here("docs").join(&link[1]);
        assert!(path.exists(), "{}", path.display());
    }
}
