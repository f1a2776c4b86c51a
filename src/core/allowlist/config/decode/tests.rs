//! What files are decoded to, and the messages for faulty ones.

use proptest::prelude::*;

use super::*;

fn kubelet() -> AbsPath {
    AbsPath::parse("/var/lib/kubelet").unwrap()
}

fn faults(text: &str) -> Vec<String> {
    decode(text, &kubelet()).unwrap_err().0.iter().map(ToString::to_string).collect()
}

fn one(text: &str) -> String {
    let mut faults = faults(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults.remove(0)
}

#[test]
fn an_entry_has_what_the_file_says() {
    let text = r#"
entries:
  - name: data.sets-1
    path: /mnt/data
    propagation: rslave
    readOnly: true
    nosuid: false
    nodev: false
    noexec: true
    subPaths: true
    missing: {create: {mode: "2770", uid: 1000, gid: 0x10}}
    readOnlyPropagation: warn
    heal: Off
    overlaps: [inner]
    allow:
      - namespaces: ["team-*", ml]
      - {namespaces: [a], serviceAccounts: [b, c]}
  - name: inner
    path: /mnt/data/inner
"#;
    let entries = decode(text, &kubelet()).unwrap_or_else(|e| panic!("{e}"));
    let pattern = |p| Pattern::parse(p).unwrap();
    let full = Entry {
        name: EntryName::parse("data.sets-1").unwrap(),
        path: AbsPath::parse("/mnt/data").unwrap(),
        ceiling: MountPropagation::HostToContainer,
        read_only: true,
        flags: MountFlags { nosuid: false, nodev: false, noexec: true },
        sub_paths: true,
        missing: Missing::Create { mode: 0o2770, uid: 1000, gid: 16 },
        read_only_propagation: ReadOnlyPropagation::Warn,
        heal: Heal::Off,
        overlaps: vec![EntryName::parse("inner").unwrap()],
        allow: vec![
            Rule { namespaces: vec![pattern("team-*"), pattern("ml")], service_accounts: vec![pattern("*")] },
            Rule { namespaces: vec![pattern("a")], service_accounts: vec![pattern("b"), pattern("c")] },
        ],
    };
    let bare = Entry {
        name: EntryName::parse("inner").unwrap(),
        path: AbsPath::parse("/mnt/data/inner").unwrap(),
        ceiling: MountPropagation::None,
        read_only: false,
        flags: MountFlags { nosuid: true, nodev: true, noexec: false },
        sub_paths: false,
        missing: Missing::Fail,
        read_only_propagation: ReadOnlyPropagation::Refuse,
        heal: Heal::On,
        overlaps: vec![],
        allow: vec![],
    };
    assert_eq!(entries, [full, bare]);
    let created = decode("entries: [{name: a, path: /a, missing: {create: {}}}]", &kubelet()).unwrap();
    assert_eq!(created[0].missing, Missing::Create { mode: 0o755, uid: 0, gid: 0 });
}

#[test]
fn every_fault_of_a_file_is_reported_with_its_line() {
    let text = r#"# line 1
entries:
  - name: 5
    path: mnt/data
    readonly: true
    nosuid: yes
  - name: b
    path: /mnt/b
    path: /mnt/b2
    propagation: slave
    missing: {create: {mode: 0755, uid: -1}}
    overlaps: [c, nosuch]
    allow:
      - serviceAccounts: []
      - namespaces: team
      - namespaces: ["Team-*"]
        serviceAccount: x
  - name: b
    path:
      /mnt/b/inner
  - path: /var/lib
    noexec:
  - name: root
    path: /
    overlaps: [root]
    readOnlyPropagation: Warn
    allow: {namespaces: [a]}
  - just-a-name
more: 1
"#;
    let faults = decode(text, &kubelet()).unwrap_err();
    let found: Vec<(usize, &str)> = faults.0.iter().map(|f| (f.line, f.field.as_str())).collect();
    assert_eq!(
        found,
        [
            (3, "entries[0].name"),
            (4, "entries[0].path"),
            (5, "entries[0].readonly"),
            (6, "entries[0].nosuid"),
            (9, "entries[1].path"),
            (10, "entries[1].propagation"),
            (11, "entries[1].missing.create.mode"),
            (11, "entries[1].missing.create.uid"),
            (12, "entries[1].overlaps[0]"),
            (12, "entries[1].overlaps[1]"),
            (14, "entries[1].allow[0].namespaces"),
            (14, "entries[1].allow[0].serviceAccounts"),
            (15, "entries[1].allow[1].namespaces"),
            (16, "entries[1].allow[2].namespaces[0]"),
            (17, "entries[1].allow[2].serviceAccount"),
            (18, "entries[2].name"),
            (19, "entries[2].path"),
            (21, "entries[3].name"),
            (21, "entries[3].path"),
            (22, "entries[3].noexec"),
            (24, "entries[4].path"),
            (25, "entries[4].overlaps[0]"),
            (26, "entries[4].readOnlyPropagation"),
            (27, "entries[4].allow"),
            (28, "entries[5]"),
            (29, "more"),
        ],
        "{faults}"
    );
    assert_eq!(faults.to_string().lines().count(), faults.0.len());
    assert_eq!((faults.0[0].column, faults.0[1].column), (11, 11));
    for part in [
        "line 3, entries[0].name: is the number 5, but must be a string: quote it, \"5\"",
        "line 4, entries[0].path: \"mnt/data\" is not an absolute path",
        "line 5, entries[0].readonly: is not a field: did you mean \"readOnly\"?",
        "line 6, entries[0].nosuid: is the string \"yes\", but must be true or false",
        "line 9, entries[1].path: is given a second time, after line 8: keep one of them",
        "line 10, entries[1].propagation: is \"slave\", but must be one of None, ",
        "mode: is the number 0755, but must be a string: quote it, \"0755\"",
        "uid: is the number -1, but must be a whole number from 0 to 4294967294",
        "\"nosuch\" is not the name of an entry: correct or remove it",
        "\"root\" is this entry itself: remove it",
        "allow[0].namespaces: is missing: add it (",
        "allow[0].serviceAccounts: is empty: it needs 1 item at least",
        "is the string \"team\", but must be a list: write [\"team\"]",
        "\"Team-*\" contains 'T', which no namespace",
        "serviceAccount: is not a field: did you mean \"serviceAccounts\"?",
        "\"b\" is the name of entries[1] on line 7 too",
        "/mnt/b/inner lies in the path of entries[1] on line 8: choose another directory or",
        "if it is meant, add \"b\" to overlaps",
        "line 21, entries[3].name: is missing: add it (What pods call the directory)",
        "\"/var/lib\" contains or lies in the kubelet's directory /var/lib/kubelet",
        "noexec: has no value: give it true or false, or remove it",
        "\"/\" is the root of the node",
        "is \"Warn\", but must be one of refuse, warn: did you mean \"warn\"?",
        "allow: is a mapping, but must be a list: begin each item with \"- \"",
        "entries[5]: is the string \"just-a-name\", but must be a mapping with the fields name, path, ",
        "line 29, more: is not a field: remove it; the fields here are entries",
    ] {
        assert!(faults.to_string().contains(part), "lacks {part}:\n{faults}");
    }
}

#[test]
fn a_file_that_is_no_list_is_one_fault() {
    for text in ["", "# nothing\n", "---\n", "null", "\u{feff}"] {
        assert!(one(text).contains("the file is empty"), "{text:?}: {}", one(text));
    }
    assert!(one("entries: []\n---\nentries: []\n").starts_with("line 2: a second document"));
    assert!(one("entries:\n  - name: 'a\n").contains("is not valid YAML"));
    assert!(one("entries:\n  - name: a\n path: b\n").starts_with("line 3: is not valid YAML"));
    assert!(one("- name: a").starts_with("line 1: is a list, but must be a mapping with the fields entries"));
    assert!(one("hello").starts_with("line 1: is the string \"hello\""));
    assert!(one(&"#".repeat(SIZE_MAX + 1)).contains("over the limit of 1048576"));
    assert!(decode("\u{feff}---\r\nentries: []\r\n...\r\n", &kubelet()).unwrap().is_empty());
}

#[test]
fn aliases_and_tags_are_not_expanded() {
    let bomb = "a: &a [x]\nb: &b [*a, *a]\nentries: [*b, {name: !!int x, path: !secret /mnt}]\n? [k]\n: v\n";
    let faults = faults(bomb);
    assert!(
        faults.contains(&"line 4: has a key that is not a plain word: every key is the name of a field".to_owned())
    );
    assert!(faults.iter().any(|f| f.starts_with("line 3, entries[0]: is an alias, which is not taken: write out")));
    assert!(faults.iter().any(|f| f.starts_with("line 3, entries[1].name: has the tag ")), "{faults:#?}");
    assert!(faults.iter().any(|f| f.starts_with("line 3, entries[1].path: has the tag \"!secret\"")), "{faults:#?}");
    let merge = "entries:\n- &x {name: a, path: /mnt/a}\n- <<: *x\n  name: b\n  path: /mnt/b\n";
    assert!(one(merge).starts_with("line 3, entries[1].\"<<\": is not a field"));
    assert!(decode("entries: !!seq [{name: !!str a, path: /a}]", &kubelet()).is_ok());
}

#[test]
fn depth_has_a_limit() {
    for text in ["[".repeat(5000), "- ".repeat(200_000), "a:\n".repeat(10) + &"{a: ".repeat(100), "? ".repeat(5000)] {
        assert_eq!(decode(&text, &kubelet()).unwrap_err().0.len(), 1);
    }
    assert!(one(&"- ".repeat(200_000)).contains("levels deep"));
}

#[test]
fn overlaps_need_to_be_said_by_either_entry() {
    let two = |a: &str, b: &str| format!("entries:\n- {{name: a, path: {a}}}\n- {{name: b, path: {b}}}\n");
    assert!(one(&two("/mnt/x", "/mnt/x")).contains("/mnt/x is the path of entries[0] on line 2"));
    assert!(one(&two("/mnt/x/y", "/mnt/x")).contains("/mnt/x contains the path of entries[0]"));
    assert!(decode(&two("/mnt/x", "/mnt/xy"), &kubelet()).is_ok());
    assert!(decode(&two("/mnt/x, overlaps: [b]", "/mnt/x/y"), &kubelet()).is_ok());
    assert!(decode(&two("/mnt/x", "/mnt/x/y, overlaps: [a]"), &kubelet()).is_ok());
    let bad_name = "entries: [{name: A_, path: /mnt/x}, {name: b, path: /mnt/x/y, overlaps: [A_]}]";
    assert_eq!(faults(bad_name).len(), 2, "of the name and its mention, not of the overlap");
    assert!(one(&two("/mnt/x", "/var/lib/kubelet/pods")).contains("kubelet's directory"));
}

#[test]
fn many_entries_are_read_and_many_faults_cut() {
    let entries: String = (0..1000).map(|i| format!("- {{name: e{i}, path: /mnt/e{i}}}\n")).collect();
    assert_eq!(decode(&format!("entries:\n{entries}"), &kubelet()).unwrap().len(), 1000);
    let many = faults(&("entries:\n".to_owned() + &"- x\n".repeat(200_000)));
    assert_eq!((many.len(), many[1000].as_str()), (1001, "line 1001: 199001 faults more"));
}

#[test]
fn old_words_of_heal_are_faults_that_name_the_new_ones() {
    for old in ["Propagating", "Containers"] {
        let faults = decode(&format!("entries: [{{name: a, path: /a, heal: {old}}}]"), &kubelet()).unwrap_err();
        assert!(faults.to_string().contains(&format!("heal: is {old:?}, but must be one of On, Off")), "{faults}");
    }
    for (word, heal) in [("On", Heal::On), ("Off", Heal::Off), ("'Off'", Heal::Off)] {
        let entries = decode(&format!("entries: [{{name: a, path: /a, heal: {word}}}]"), &kubelet()).unwrap();
        assert_eq!(entries[0].heal, heal);
    }
}

#[test]
fn words_of_propagation_are_all_of_them() {
    let words: HashSet<MountPropagation> =
        crate::config::shape::PROPAGATION.iter().map(|w| w.parse().unwrap()).collect();
    assert_eq!(words, HashSet::from(MountPropagation::ALL));
    assert_eq!(crate::config::shape::PROPAGATION.len(), 2 * words.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = decode(&text, &kubelet());
    }

    #[test]
    fn no_text_like_yaml_makes_it_panic(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "entries", "name", "path", "missing", "create", "mode", "allow", "namespaces", ":", ": ", "- ", "\n",
                "\n  ", "\n    ", "[", "]", "{", "}", ",", "*a", "&a ", "!!int ", "!x ", "'", "\"", "|", ">", "? ",
                "---\n", "...\n", "#", "5", "~", "true", "/mnt/a", "%", "\t", "\r\n", "é", "\0", "<<", "\u{feff}",
            ]),
            0..60,
        )
    ) {
        if let Err(faults) = decode(&parts.concat(), &kubelet()) {
            prop_assert!(!faults.0.is_empty() && faults.0.iter().all(|f| f.line > 0 && f.column > 0));
        }
    }
}
