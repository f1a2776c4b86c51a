//! The pictures, looked at by what shows them to people: the page in a real browser, the graph by graphviz.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod chromium;
mod machines;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chromium::Page;
use model::machine::{Machine, Namespace};
use model::subtrees::Forest;
use mounts::mountinfo::{self, Mount};
use serde_json::Value;
use tools::picture::{self, Options};

fn page_of(machine: &Machine) -> String {
    picture::html(machine, machine, &Options::default())
}

/// Writes a file for the browser; kept, so that people can look at it as well.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Who receives an event at the root of each mount, by the model: mounts as numbers through all namespaces, without
/// the mount itself. Mounts that no path leads to are missing.
fn by_the_model(machine: &Machine) -> BTreeMap<usize, BTreeSet<usize>> {
    let forest = Forest::of(machine);
    let mounts = || {
        let with = |(namespace, of): (usize, _)| std::iter::repeat(namespace).zip(mounts_of(of));
        machine.namespaces.iter().enumerate().flat_map(with)
    };
    let mut number = BTreeMap::new();
    for (n, (namespace, mount)) in mounts().enumerate() {
        number.entry((namespace, mount.id)).or_insert(n);
    }
    let mut all = BTreeMap::new();
    for (n, (namespace, mount)) in mounts().enumerate() {
        let found = match forest.receivers(namespace, &mount.mount_point) {
            Ok(found) => found,
            Err(unknown) => unknown.known,
        };
        if found.first().is_some_and(|first| first.mount == mount.id) && number[&(namespace, mount.id)] == n {
            all.insert(n, found.iter().skip(1).map(|r| number[&(r.namespace, r.mount)]).collect());
        }
    }
    all
}

fn mounts_of(namespace: &Namespace) -> std::slice::Iter<'_, Mount> {
    namespace.table.mounts.iter()
}

fn numbers(value: &Value) -> BTreeSet<usize> {
    value.as_array().unwrap().iter().map(|n| usize::try_from(n.as_u64().unwrap()).unwrap()).collect()
}

const LIT: &str = "[...document.querySelectorAll('.row.lit[data-mount]')].map((row) => +row.dataset.mount)";

#[test]
fn the_page_is_silent_and_alone_whatever_mount_points_are_called() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    let table = mountinfo::parse(&std::fs::read("/proc/self/mountinfo").unwrap());
    let real = Machine { namespaces: vec![Namespace { table, ..Namespace::default() }], left_out: vec![] };
    for (name, machine) in [
        ("small", machines::small()),
        ("real", real),
        ("node", machines::node(5, 60)),
        ("hostile", machines::hostile()),
    ] {
        page.open(&file(&format!("{name}.html"), &page_of(&machine)), false);
        page.run("document.getElementById('unfold').click()");
        let rows = page.run("document.querySelectorAll('.row[data-mount]').length");
        let mounts: usize = machine.namespaces.iter().map(|n| n.table.mounts.len()).sum();
        assert_eq!(rows, mounts, "{name}: every mount has its row");
        page.run("for (const row of document.querySelectorAll('.row')) row.focus()");
        assert_eq!(page.faults(), Vec::<String>::new(), "{name}");
        assert_eq!(page.run("typeof window.broken"), "undefined", "{name}: a mount point ran as script");
        assert_eq!(
            page.run("document.querySelectorAll('img, script:not([type]) ~ script, a, iframe').length"),
            0,
            "{name}"
        );
    }
    // What is hostile is to be read, not left out.
    let text = page.run("document.getElementById('columns').textContent");
    for part in [
        "</script><script>window.broken=1</script>",
        "line\\x0abreak\\x0d\\x09tab",
        "\\xe2\\x80\\xaetxt.exe",
        "\\xff\\xfe\\x80 not UTF-8",
    ] {
        assert!(text.as_str().unwrap().contains(part), "{part}");
    }
}

#[test]
fn the_policy_of_the_page_forbids_the_network() {
    let Some(mut page) = Page::start(800, 600) else { return };
    page.open(&file("policy.html", &page_of(&machines::small())), false);
    let refused = page.run(
        "new Promise((done) => { const refused = []; \
         document.addEventListener('securitypolicyviolation', (event) => { refused.push(event.effectiveDirective); if (refused.length === 3) done(refused.sort()); }); \
         fetch('http://127.0.0.1:9/').catch(() => {}); new Image().src = 'http://127.0.0.1:9/x'; \
         const style = document.createElement('link'); style.rel = 'stylesheet'; style.href = 'http://127.0.0.1:9/y'; document.head.append(style); })",
    );
    assert_eq!(refused, serde_json::json!(["connect-src", "img-src", "style-src-elem"]));
}

/// The SHA-256 of a text in base64, by coreutils.
fn sha256(name: &str, text: &str) -> String {
    let output = Command::new("sha256sum").arg(file(name, text)).output().unwrap();
    let hex = String::from_utf8(output.stdout).unwrap();
    let bytes: Vec<u32> = (0..32).map(|at| u32::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    let digits: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0, |number, byte| number << 8 | byte) << (8 * (3 - three.len()));
        let digit = |at: usize| digits[usize::try_from(number >> (18 - 6 * at) & 63).unwrap()];
        out.extend((0..4).map(|at| if at <= three.len() { digit(at) } else { '=' }));
    }
    out
}

#[test]
fn the_policy_of_the_page_names_its_script_and_style() {
    assert_eq!(sha256("abc", "abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", "FIPS 180-2, B.1");
    let page = page_of(&machines::small());
    for what in ["style", "script"] {
        let text = page.split(&format!("<{what}>")).nth(1).unwrap().split(&format!("</{what}>")).next().unwrap();
        let hash = sha256(what, text);
        let policy = format!("{what}-src 'sha256-{hash}'");
        assert!(page.contains(&policy), "src/picture/html.rs: the hash of the {what} must be {hash}");
    }
}

#[test]
fn the_pictures_in_the_documentation_are_what_is_drawn() {
    let options = Options { title: "A directory of a node in three pods".to_owned(), all: false };
    let drawn = picture::svg(&machines::small(), &options);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/pictures/three-pods.svg");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let copy = file("three-pods.svg", &drawn);
    assert!(kept == drawn, "the picture has changed: look at it, then cp {} {}", copy.display(), path.display());
}

#[test]
fn a_mount_lights_up_exactly_who_receives_by_the_model() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    for (name, machine) in [("lit-node", machines::node(6, 60)), ("lit-hostile", machines::hostile())] {
        let expected = by_the_model(&machine);
        assert!(expected.len() > 40, "{name}");
        page.open(&file(&format!("{name}.html"), &page_of(&machine)), false);
        page.run("document.getElementById('unfold').click()");
        let all = page.run(&format!(
            "[...document.querySelectorAll('.row[data-mount]')].map((row) => {{ row.focus(); return [+row.dataset.mount, {LIT}]; }})"
        ));
        let mut looked_at = 0;
        for one in all.as_array().unwrap() {
            let mount = usize::try_from(one[0].as_u64().unwrap()).unwrap();
            if let Some(receivers) = expected.get(&mount) {
                assert_eq!(&numbers(&one[1]), receivers, "{name}: mount {mount}");
                looked_at += 1;
            }
        }
        assert_eq!(looked_at, expected.len());
    }
    let machine = machines::node(6, 60);
    let expected = by_the_model(&machine);
    assert!(expected.values().filter(|all| all.len() > 1).count() > 20, "the machine has something to light up");
    page.open(&file("hover.html", &page_of(&machine)), false);
    page.run("document.getElementById('unfold').click()");
    // The real mouse, on mounts of each kind.
    for (mount, receivers) in expected.iter().step_by(37) {
        page.point_at(&format!(".row[data-mount='{mount}']"));
        assert_eq!(numbers(&page.run(LIT)), *receivers, "mount {mount}");
        assert_eq!(page.run("+document.querySelector('.row.source').dataset.mount"), *mount);
    }
}

#[test]
fn words_and_counts_say_why() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    page.open(&file("words.html", &page_of(&machines::node(5, 60))), false);
    page.point_at(".row[aria-label^='/srv/data,']");
    let told = page.run("document.getElementById('panel').innerText");
    let told = told.as_str().unwrap();
    for words in [
        "What is mounted here is received by 10 other mounts in 5 namespaces.",
        "a peer in group 24",
        "a slave of peer group 24",
        "a slave of peer group 24, from there to a slave of peer group 28",
        "pod ml/notebook-1, main",
    ] {
        assert!(told.contains(words), "{words:?} in:\n{told}");
    }
    // Receivers that are folded away are counted on the fold, and on the heading.
    let folded = page.run("[...document.querySelectorAll('.row.folded.lit .in')].map((n) => n.textContent)");
    assert_eq!(folded, serde_json::json!(["3", "3"]));
    let heads = page.run("[...document.querySelectorAll('.head .count:not([hidden])')].map((n) => n.textContent)");
    assert_eq!(heads, serde_json::json!(["2", "3", "3", "1", "1"]));
    for (at, words) in [
        ("/srv/private,", "seen nowhere else: it is private"),
        ("/srv/scratch,", "seen nowhere else: it is unbindable"),
        ("/data/sets,", "seen nowhere else: a slave passes nothing on"),
    ] {
        page.point_at(&format!(".row[aria-label^='{at}']"));
        let told = page.run("document.querySelector('#panel .verdict').innerText");
        assert!(told.as_str().unwrap().contains(words), "{at} {told}");
    }
    // Who shows a part of a mount is marked as such, and told with the directory.
    let table = |text: &str| Namespace { table: mountinfo::parse(text.as_bytes()), ..Namespace::default() };
    let parts = Machine {
        namespaces: vec![
            table("1 0 0:1 / / rw - t t rw\n2 1 0:2 / /srv rw shared:1 - t t rw\n"),
            table(
                "3 0 0:3 / / rw - t t rw\n4 3 0:2 /sets/a /data rw master:1 - t t rw\n5 3 0:2 / /all rw shared:1 - t t rw\n",
            ),
        ],
        left_out: vec![],
    };
    page.open(&file("parts.html", &page_of(&parts)), false);
    page.point_at(".row[data-mount='1']");
    let marked =
        "['lit', 'part'].map((how) => [...document.querySelectorAll(`.row.${how}`)].map((row) => +row.dataset.mount))";
    assert_eq!(page.run(marked), serde_json::json!([[4], [3]]));
    let told = page.run("document.getElementById('panel').innerText");
    assert!(
        told.as_str().unwrap().contains("What is mounted at /srv/sets/a, or beneath it, is received by these as well:")
    );
    page.open(&file("words.html", &page_of(&machines::node(5, 60))), false);
    page.point_at(".row[aria-label^='/srv/data,']");
    // Away from the mounts, nothing is lit.
    page.call("Input.dispatchMouseEvent", &serde_json::json!({"type": "mouseMoved", "x": 1300, "y": 20}));
    assert_eq!(page.run("document.querySelectorAll('.lit, .source').length"), 0);
    // Only the namespaces concerned, and back.
    page.open(&file("words.html", &page_of(&machines::node(8, 60))), false);
    page.click(".row[aria-label^='/opt/models'], .row[aria-label^='/srv/data,']");
    let columns = "document.querySelectorAll('.column:not([hidden])').length";
    assert_eq!(page.run(columns), 8);
    page.click("#panel .only");
    assert_eq!(page.run(columns), 7, "ingest-2 receives nothing");
    page.run("document.activeElement.blur()");
    page.press("Escape");
    assert_eq!(page.run(columns), 8);
}

#[test]
fn what_is_not_shown_is_counted_and_said() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    let whole = machines::node(5, 60);
    let mut shown = whole.clone();
    shown.namespaces.truncate(1);
    shown.namespaces[0].table.mounts.retain(|mount| mount.mount_point.as_os_str() == "/srv/data");
    page.open(&file("cut.html", &picture::html(&shown, &whole, &Options::default())), false);
    page.point_at(".row[aria-label^='/srv/data,']");
    let told = page.run("document.querySelector('#panel .verdict').innerText");
    assert_eq!(told, "What is mounted here is received by 10 places that are not shown.");
    let about = page.run("document.querySelector('#panel dd').innerText");
    assert!(about.as_str().unwrap().starts_with("shared: member of peer group 24 with "), "{about}");
    shown = whole.clone();
    shown.namespaces.truncate(2);
    page.open(&file("cut.html", &picture::html(&shown, &whole, &Options::default())), false);
    page.point_at(".row[aria-label^='/srv/data,']");
    let told = page.run("document.querySelector('#panel .verdict').innerText");
    let told = told.as_str().unwrap();
    assert!(
        told.starts_with("What is mounted here is received by 5 other mounts in 2 namespaces, and by 5 places"),
        "{told}"
    );
    assert_eq!(page.run("document.querySelectorAll('#panel .doubt').length"), 0);
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn the_filter_finds_and_gives_back() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    page.open(&file("filter.html", &page_of(&machines::node(5, 60))), false);
    let rows = "[...document.querySelectorAll('.column:not([hidden]) .row[data-mount]:not(.context)')].map((row) => row.getAttribute('aria-label').split(',')[0])";
    let before = page.run("document.getElementById('columns').textContent");
    page.press("/");
    page.write("sets Train");
    page.until("document.getElementById('found').textContent === '1 mount in 1 namespace'");
    assert_eq!(page.run(rows), serde_json::json!(["/data/sets"]));
    assert_eq!(page.run("document.querySelectorAll('.column:not([hidden])').length"), 1);
    page.press("Enter");
    assert_eq!(page.run("document.activeElement.getAttribute('aria-label').split(',')[0]"), "/data/sets");
    page.press("Escape");
    assert_eq!(page.run("document.getElementById('columns').textContent"), before, "all is back");
    for (text, found) in [
        ("group:26", "4 mounts in 4 namespaces"),
        ("unbindable", "3 mounts in 3 namespaces"),
        ("devpts", "5 mounts in 5 namespaces"),
        ("</script>", "0 mounts in 0 namespaces"),
    ] {
        page.press("/");
        page.write(text);
        page.until(&format!("document.getElementById('found').textContent === '{found}'"));
        // The first clears the filter, the second leaves it.
        page.press("Escape");
        page.press("Escape");
    }
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn the_keyboard_reaches_everything() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    page.open(&file("keys.html", &page_of(&machines::node(5, 60))), false);
    let here = "(() => { const row = document.activeElement; const column = row.closest('.column'); return [column ? column.querySelector('h2').textContent : row.id, (row.getAttribute('aria-label') || row.textContent).split(',')[0]]; })()";
    let is = |page: &mut Page, column: &str, row: &str| {
        assert_eq!(page.run(here), serde_json::json!([column, row]));
    };
    page.press("Tab");
    assert_eq!(page.run("document.activeElement.id"), "search");
    page.press("ArrowDown");
    is(&mut page, "node", "/");
    assert_eq!(page.run("document.querySelector('.source').dataset.mount"), "0", "focus lights up as the mouse does");
    page.press("Tab");
    is(&mut page, "systemd-timesyn (598)", "/");
    page.press("End");
    assert_eq!(page.run("document.activeElement.getAttribute('aria-expanded')"), "false");
    let rows = "document.activeElement.closest('.column').querySelectorAll('.row').length";
    let folded = page.run(rows).as_u64().unwrap();
    page.press("ArrowRight");
    assert_eq!(page.run(rows), folded + 54, "the fold is open");
    assert_eq!(page.run("document.activeElement.getAttribute('aria-expanded')"), "true");
    page.press("ArrowLeft");
    assert_eq!(page.run(rows), folded);
    page.press("Home");
    page.press("ArrowLeft");
    is(&mut page, "node", "/");
    for _ in 0..8 {
        page.press("ArrowDown");
    }
    is(&mut page, "node", "/srv/data");
    assert!(
        page.run("document.getElementById('status').textContent")
            .as_str()
            .unwrap()
            .contains("received by 10 other mounts")
    );
    page.press("Enter");
    assert_eq!(page.run("document.querySelector('.pinned').getAttribute('aria-label').split(',')[0]"), "/srv/data");
    page.press("n");
    let lit = "document.activeElement.classList.contains('lit')";
    assert_eq!(page.run(lit), true, "on the first receiver");
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        page.press("n");
        assert_eq!(page.run(lit), true);
        seen.insert(page.run("document.activeElement.dataset.mount").to_string());
    }
    assert_eq!(seen.len(), 10, "each receiver once, those that were folded too");
    assert_eq!(page.run("document.querySelectorAll('.pinned').length"), 1, "the mount is still held");
    page.press("Escape");
    assert_eq!(page.run("document.querySelectorAll('.pinned').length"), 0);
    // Everything that can be used has a name, and is a thing that assistive technology knows.
    let nameless = page.run(
        "[...document.querySelectorAll('[role=treeitem], [role=tree], button, input, aside, summary')].filter((node) => \
         !(node.getAttribute('aria-label') || node.textContent || document.getElementById(node.getAttribute('aria-labelledby'))?.textContent)).length",
    );
    assert_eq!(nameless, 0);
    assert_eq!(
        page.run("document.querySelectorAll('.tree').length"),
        page.run("document.querySelectorAll('.tree .row[tabindex=\"0\"]').length")
    );
}

/// Contrast of texts with what is behind them, by WCAG 2.2; gives those below 4.5.
const CONTRAST: &str = r#"(() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => { context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1); return [...context.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (let at = node; at; at = at.parentElement) { const c = rgb(getComputedStyle(at).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
  const low = [];
  for (const node of document.querySelectorAll("h1, h2, p, .path > *, .fs, .chip.master, .chip.peers > span, dd, dt, small, code, button, summary, input")) {
    if (!node.offsetWidth || node.id === "status") continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${node.className || node.nodeName} ${node.textContent.slice(0, 20)}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(low)];
})()"#;

#[test]
fn light_and_dark_are_both_readable() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    let path = file("schemes.html", &page_of(&machines::node(5, 60)));
    let mut grounds = BTreeSet::new();
    for dark in [false, true] {
        page.open(&path, dark);
        assert_eq!(page.run(CONTRAST), serde_json::json!([]), "dark: {dark}");
        page.run("document.getElementById('unfold').click()");
        page.click(".row[aria-label^='/srv/data,']");
        assert_eq!(page.run(CONTRAST), serde_json::json!([]), "dark: {dark}, with a mount lit up");
        grounds.insert(page.run("getComputedStyle(document.body).backgroundColor").to_string());
    }
    assert_eq!(grounds.len(), 2);
    let low = r#"(() => {
      const light = (colour) => { const [r, g, b] = colour.match(/[\d.]+/g).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const fill = (node) => light(getComputedStyle(node).fill);
      const card = fill(document.querySelector(".card-paper")), paper = fill(document.querySelector(".paper"));
      const low = [];
      for (const node of document.querySelectorAll(".card-title, .card-note, .label, .note, .master text, .legend text")) {
        const [a, b] = [fill(node), node.closest(".legend") ? paper : card];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push(`${node.getAttribute("class")} ${node.textContent}: ${ratio.toFixed(2)}`);
      }
      return low;
    })()"#;
    let svg = file("schemes.svg", &picture::svg(&machines::small(), &Options::default()));
    let mut papers = BTreeSet::new();
    for dark in [false, true] {
        page.open(&svg, dark);
        assert_eq!(page.run(low), serde_json::json!([]), "dark: {dark}, as SVG");
        papers.insert(page.run("getComputedStyle(document.querySelector('.paper')).fill").to_string());
        assert!(
            !page
                .run("document.querySelector('title').textContent + document.querySelector('desc').textContent")
                .as_str()
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(papers.len(), 2);
}

#[test]
fn no_label_lies_on_another() {
    let Some(mut page) = Page::start(1400, 900) else { return };
    // Boxes within each column; what CSS cuts off is not seen.
    let of_page = r#"(() => {
      const clashes = [];
      for (const column of document.querySelectorAll(".column")) {
        const edge = column.getBoundingClientRect();
        const boxes = [...column.querySelectorAll(".head h2, .head p, .head .count:not([hidden]), .row .path > *, .row .fs, .row .chip, .row .in")].map((node) => [node, node.getBoundingClientRect()]).filter(([, b]) => b.width && b.height);
        boxes.sort((a, b) => a[1].top - b[1].top);
        boxes.forEach(([node, a], i) => {
          if (a.left < edge.left - 1 || a.right > edge.right + 1) clashes.push(`sticks out: ${node.textContent}`);
          for (let j = i + 1; j < boxes.length && boxes[j][1].top < a.bottom - 1; j++) {
            const b = boxes[j][1];
            if (a.left < b.right - 1 && b.left < a.right - 1) clashes.push(`${node.textContent} / ${boxes[j][0].textContent}`);
          }
        });
      }
      return clashes.slice(0, 5);
    })()"#;
    let of_svg = r#"(() => {
      const clashes = [];
      const paper = document.querySelector(".paper").getBoundingClientRect();
      for (const wire of document.querySelectorAll(".wire")) {
        const box = wire.getBoundingClientRect();
        if (box.left < paper.left || box.right > paper.right || box.bottom > paper.bottom) clashes.push("a line sticks out");
      }
      for (const card of document.querySelectorAll(".card, .legend")) {
        const edge = (card.querySelector(".card-paper") ?? document.querySelector(".paper")).getBoundingClientRect();
        const boxes = [...card.querySelectorAll("text")].map((node) => [node, node.getBoundingClientRect()]).sort((a, b) => a[1].top - b[1].top);
        boxes.forEach(([node, a], i) => {
          if (a.left < edge.left - 1 || a.right > edge.right + 1) clashes.push(`sticks out: ${node.textContent}`);
          for (let j = i + 1; j < boxes.length && boxes[j][1].top < a.bottom - 2; j++) {
            const b = boxes[j][1];
            if (a.left < b.right - 1 && b.left < a.right - 1) clashes.push(`${node.textContent} / ${boxes[j][0].textContent}`);
          }
        });
      }
      return clashes.slice(0, 5);
    })()"#;
    let none = serde_json::json!([]);
    let mut one = machines::small();
    one.namespaces.truncate(1);
    let mut little = one.clone();
    little.namespaces[0].table = mountinfo::parse(
        b"1 0 0:1 / /lab rw - tmpfs t rw\n2 1 0:2 / /lab/a rw shared:1 - tmpfs t rw\n3 1 0:2 / /lab/b rw shared:1 - tmpfs t rw\n\
          4 1 0:2 / /lab/c rw shared:2 master:1 - tmpfs t rw\n",
    );
    for (name, machine) in [
        ("one", one),
        ("little", little),
        ("small", machines::small()),
        ("node", machines::node(5, 60)),
        ("hostile", machines::hostile()),
        ("many", machines::node(40, 60)),
    ] {
        page.open(&file(&format!("labels-{name}.html"), &page_of(&machine)), false);
        assert_eq!(page.run(of_page), none, "{name}, folded");
        page.run("document.getElementById('unfold').click()");
        page.run("document.querySelectorAll('.row[data-mount]')[3].focus()");
        assert_eq!(page.run(of_page), none, "{name}, unfolded");
        for all in [false, true] {
            let options = Options { all, ..Options::default() };
            page.open(&file(&format!("labels-{name}-{all}.svg"), &picture::svg(&machine, &options)), false);
            assert_eq!(page.run(of_svg), none, "{name}.svg, all: {all}");
            let notes =
                page.run("[...document.querySelectorAll('.card-note')].map((note) => note.textContent).join('\\n')");
            assert!(!notes.as_str().unwrap().contains('…'), "{name}.svg: {notes}");
            if name == "little" {
                assert!(notes.as_str().unwrap().starts_with("4 mounts of tmpfs · 1 process\n"), "{notes}");
                assert_eq!(page.run("document.querySelectorAll('.note').length"), 0, "the type is said once");
                let wide = page.run("document.documentElement.width.baseVal.value").as_f64().unwrap();
                assert!(wide < 360.0, "one narrow card makes no wide picture: {wide}");
            }
        }
    }
}

#[test]
fn a_hundred_namespaces_stay_usable() {
    let machine = machines::node(100, 60);
    let start = Instant::now();
    let text = page_of(&machine);
    let made = start.elapsed();
    println!("100 namespaces, made: {made:?}, {} KB", text.len() / 1000);
    assert!(made < Duration::from_secs(8), "in a debug build: {made:?}");
    assert!(text.len() < 1_500_000, "{}", text.len());
    let five = page_of(&machines::node(5, 60));
    println!("5 namespaces: {} KB", five.len() / 1000);
    assert!(five.len() < 300_000, "{}", five.len());
    let Some(mut page) = Page::start(1400, 900) else { return };
    let start = Instant::now();
    page.open(&file("hundred.html", &text), false);
    let loaded = start.elapsed();
    let lit = page.run(
        "(() => { const start = performance.now(); document.querySelector(\".row[aria-label^='/srv/data,']\").focus(); document.body.offsetHeight; return performance.now() - start; })()",
    );
    let unfolded = page.run(
        "(() => { const start = performance.now(); document.getElementById('unfold').click(); document.body.offsetHeight; return performance.now() - start; })()",
    );
    println!("loaded: {loaded:?}, lit up: {lit} ms, all unfolded: {unfolded} ms");
    assert!(loaded < Duration::from_secs(10), "{loaded:?}");
    assert!(lit.as_f64().unwrap() < 1000.0, "{lit} ms");
    // Headings stay in sight when scrolled down.
    page.run("document.getElementById('board').scrollTo(2000, 3000)");
    let top = page.run("document.querySelectorAll('.head')[5].getBoundingClientRect().top - document.getElementById('board').getBoundingClientRect().top");
    assert_eq!(top, 0);
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn svg_is_well_formed_whatever_mount_points_are_called() {
    let Some(mut page) = Page::start(800, 600) else { return };
    let text = picture::svg(&machines::hostile(), &Options { title: "<&\"'>\u{202e}]]>".to_owned(), all: true });
    page.open(&file("hostile.svg", &text), false);
    assert_eq!(page.run("document.querySelectorAll('parsererror, script, img').length"), 0);
    assert_eq!(page.run("document.documentElement.nodeName"), "svg");
    assert_eq!(page.run("document.querySelectorAll('.card').length"), 6);
    assert_eq!(page.run("document.querySelector('title').textContent"), "<&\"'>\\xe2\\x80\\xae]]>");
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn graphviz_takes_the_graph_and_shows_every_name() {
    for (name, machine) in
        [("small", machines::small()), ("node", machines::node(5, 60)), ("hostile", machines::hostile())]
    {
        for all in [false, true] {
            let path =
                file(&format!("{name}-{all}.dot"), &picture::dot(&machine, &Options { all, ..Options::default() }));
            let output = Command::new("dot").arg("-Tsvg").arg(&path).stderr(Stdio::piped()).output();
            let Ok(output) = output else {
                println!("SKIPPED: dot is missing: apt-get install graphviz");
                return;
            };
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{name}: {errors}");
            let drawn = String::from_utf8(output.stdout).unwrap();
            if all {
                let mounts: usize = machine.namespaces.iter().map(|n| n.table.mounts.len()).sum();
                assert_eq!(drawn.matches("class=\"node\"").count(), mounts, "{name}");
            }
            if name == "hostile" {
                for part in [
                    "/&lt;/script&gt;&lt;script&gt;window.broken=1",
                    "line\\x0abreak\\x0d\\x09tab",
                    "&amp;amp;&amp;lt;",
                    "\\x5cN \\x5c&quot;",
                ] {
                    assert!(drawn.replace("&#45;", "-").replace("&#160;", " ").contains(part), "{part} in {drawn}");
                }
            }
        }
    }
}
