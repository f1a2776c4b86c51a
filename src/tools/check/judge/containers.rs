//! Judges what running containers have of the volumes.

use service::containers::judge::Flag;
use text::plural;

use super::super::facts::{InContainers, Weaker};
use super::super::report::{Item, Section};
use crate::in_containers::NotLooked;

/// How many are named; the metric and `volumes inspect` have them all.
const NAMED: usize = 5;
const CHECK: &str = "containerFlags";
const LOOKED_AT: &str = "mount flags in running containers";

pub(super) fn judge(found: &Result<InContainers, NotLooked>, items: &mut Vec<Item>) {
    let found = match found {
        Ok(found) if found.volumes == 0 => return,
        Ok(found) => found,
        Err(why) => return items.push(Item::skipped(Section::Containers, CHECK, LOOKED_AT, why.to_string())),
    };
    let before = items.len();
    items.extend(Flag::ALL.into_iter().filter_map(|flag| weaker(flag, &found.weaker)));
    if let Some((pod, why)) = found.unknown.first() {
        let more = match found.unknown.len() {
            1 => String::new(),
            all => format!(" and {}", plural(all - 1, "other pod")),
        };
        items.push(Item::skipped(Section::Containers, CHECK, LOOKED_AT, format!("not known of {pod}{more}: {why}")));
    }
    if items.len() == before {
        let (volumes, containers) = (plural(found.volumes, "volume"), plural(found.containers, "container"));
        let all = format!("those of the entries, or what makes up for them ({volumes}, found in {containers})");
        items.push(Item::ok(Section::Containers, CHECK, LOOKED_AT, all));
    }
}

fn weaker(flag: Flag, all: &[Weaker]) -> Option<Item> {
    let those: Vec<&Weaker> = all.iter().filter(|weaker| flag.is_in(weaker.missing)).collect();
    let name = |Weaker { entry, pod, container, path, .. }: &Weaker| {
        let container = container.as_ref().map_or_else(String::new, |name| format!(", container {name}"));
        format!("pod {pod}{container} at {path} (entry {entry})")
    };
    let mut names: Vec<String> = those.iter().take(NAMED).map(|weaker| name(weaker)).collect();
    names.extend((those.len() > NAMED).then(|| format!("{} more", those.len() - NAMED)));
    let found = format!("not in {}: there, the container can {}", names.join("; "), flag.danger());
    let item = Item::warning(Section::Containers, CHECK, format!("{} in running containers", flag.name()), found);
    (!those.is_empty()).then(|| item.advise(flag.advice()).run("hostmount volumes inspect $(hostmount volumes ls -q)"))
}
