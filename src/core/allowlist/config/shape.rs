//! The table of what may be written in the allow-list. The decoder follows it, and the JSON Schema is generated from
//! it.

/// What a value must be.
#[derive(Debug)]
pub(super) enum Shape {
    /// A string. The decoder parses it into its own type; `pattern` is the same rule for the schema.
    Text { pattern: &'static str, max: usize },
    /// One of these strings.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A user or group id.
    Id,
    /// A list with at least `min` and at most `max` items.
    List { of: &'static Shape, min: usize, max: Option<usize> },
    /// A mapping with these fields and no others.
    Object(&'static [Field]),
    /// One of these strings, or a mapping with these fields.
    WordOr(&'static [&'static str], &'static [Field]),
}

/// What an absent field means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Absent {
    Fault,
    Flag(bool),
    Id(u32),
    Text(&'static str),
    Texts(&'static [&'static str]),
}

/// A field of a mapping.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) absent: Absent,
    /// The field's description in the schema.
    pub(super) about: &'static str,
}

/// The largest id. The next one, -1, tells chown(2) to change nothing.
pub(super) const ID_MAX: u32 = u32::MAX - 1;
/// The most entries: far more than a node needs, and few enough to compare each with each.
pub(super) const ENTRIES_MAX: usize = 1000;
/// The words for a propagation: Kubernetes' three, and mount(8)'s three for the same.
pub(super) const PROPAGATION: &[&str] = &["None", "HostToContainer", "Bidirectional", "rprivate", "rslave", "rshared"];

const NAME: Shape = Shape::Text { pattern: "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max: 63 };
const PATH: Shape = Shape::Text {
    // A component begins without a dot, or with one dot followed by another character, or with two dots followed by any
    // more. There is no look-ahead, since Go's validators (such as Helm's) don't support it.
    pattern: concat!(
        "^(/([^/.\\x00-\\x1f\\x7f-\\x9f][^/\\x00-\\x1f\\x7f-\\x9f]*",
        "|\\.[^/.\\x00-\\x1f\\x7f-\\x9f][^/\\x00-\\x1f\\x7f-\\x9f]*",
        "|\\.\\.[^/\\x00-\\x1f\\x7f-\\x9f]+))+$"
    ),
    max: crate::names::PATH_MAX - 1,
};
const PATTERN: Shape = Shape::Text { pattern: "^[a-z0-9.*?-]+$", max: super::pattern::PATTERN_MAX };

pub(super) const FILE: &[Field] = &[Field {
    name: "entries",
    shape: Shape::List { of: &Shape::Object(ENTRY), min: 0, max: Some(ENTRIES_MAX) },
    absent: Absent::Fault,
    about: "The directories of the node that pods may ask for by name. An empty list refuses every volume.",
}];

pub(super) const ENTRY: &[Field] = &[
    Field {
        name: "name",
        shape: NAME,
        absent: Absent::Fault,
        about: "What pods call the directory: a-z, 0-9, '-' and '.'. Unique in the file.",
    },
    Field {
        name: "path",
        shape: PATH,
        absent: Absent::Fault,
        about: "The directory on the node: absolute, without '..', '.', doubled or trailing slashes. Not '/', and \
                neither in nor above the kubelet's directory.",
    },
    Field {
        name: "propagation",
        shape: Shape::Word(PROPAGATION),
        absent: Absent::Text("None"),
        about: "The strongest mount propagation that a pod may ask for.",
    },
    Field {
        name: "readOnly",
        shape: Shape::Flag,
        absent: Absent::Flag(false),
        about: "Whether every volume of the entry is read-only.",
    },
    Field {
        name: "nosuid",
        shape: Shape::Flag,
        absent: Absent::Flag(true),
        about: "Whether set-user-id and set-group-id bits and file capabilities have no effect in the volume. Most \
                container runtimes take this off; allowPrivilegeEscalation: false in the Pod does it (docs/allow-list.md).",
    },
    Field {
        name: "nodev",
        shape: Shape::Flag,
        absent: Absent::Flag(true),
        about: "Whether device nodes in the volume can't be opened. Most container runtimes take this off; their device \
                filter does it for containers that aren't privileged (docs/allow-list.md).",
    },
    Field {
        name: "noexec",
        shape: Shape::Flag,
        absent: Absent::Flag(false),
        about: "Whether nothing in the volume can be executed. Most container runtimes take this off, and no field of the \
                Pod does it (docs/allow-list.md).",
    },
    Field {
        name: "subPaths",
        shape: Shape::Flag,
        absent: Absent::Flag(false),
        about: "Whether pods may ask for directories beneath the entry's.",
    },
    Field {
        name: "missing",
        shape: Shape::WordOr(&["fail"], MISSING),
        absent: Absent::Text("fail"),
        about: "What to do if the directory doesn't exist: refuse the volume, or create the directory.",
    },
    Field {
        name: "readOnlyPropagation",
        shape: Shape::Word(&["refuse", "warn"]),
        absent: Absent::Text("refuse"),
        about: "What to do if a read-only volume asks for propagation: a mount that propagates into it later is not \
                read-only itself.",
    },
    Field {
        name: "heal",
        shape: Shape::Word(&["On", "Off"]),
        absent: Absent::Text("On"),
        about: "Whether volumes get the directory again when it comes back after its file system has died, or was \
                replaced: containers with HostToContainer or Bidirectional while they run, others when they are started \
                again.",
    },
    Field {
        name: "overlaps",
        shape: Shape::List { of: &NAME, min: 0, max: None },
        absent: Absent::Texts(&[]),
        about: "The names of entries whose directory may contain this one's or lie in it. Saying it in one of the \
                two is enough.",
    },
    Field {
        name: "allow",
        shape: Shape::List { of: &Shape::Object(RULE), min: 0, max: None },
        absent: Absent::Texts(&[]),
        about: "Who may use the entry: pods that match any item. Nobody, if there is none.",
    },
];

pub(super) const MISSING: &[Field] = &[Field {
    name: "create",
    shape: Shape::Object(CREATE),
    absent: Absent::Fault,
    about: "Create the directory with this mode and owner.",
}];

pub(super) const CREATE: &[Field] = &[
    Field {
        name: "mode",
        shape: Shape::Text { pattern: "^0?[0-7]{3,4}$", max: 5 },
        absent: Absent::Text("0755"),
        about: "The permission bits as a quoted octal number.",
    },
    Field { name: "uid", shape: Shape::Id, absent: Absent::Id(0), about: "The owner's user id." },
    Field { name: "gid", shape: Shape::Id, absent: Absent::Id(0), about: "The owning group's id." },
];

pub(super) const RULE: &[Field] = &[
    Field {
        name: "namespaces",
        shape: Shape::List { of: &PATTERN, min: 1, max: None },
        absent: Absent::Fault,
        about: "Patterns, one of which the pod's namespace must match: '*' is any run of characters, '?' any one.",
    },
    Field {
        name: "serviceAccounts",
        shape: Shape::List { of: &PATTERN, min: 1, max: None },
        absent: Absent::Texts(&["*"]),
        about: "Patterns, one of which the name of the pod's service account must match.",
    },
];
