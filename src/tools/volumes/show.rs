//! Prints volumes: as a table, as names, as JSON lines. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use text::cut::Cut;
use text::table::Columns;

use super::choose::{full_name, pod_path};
use super::model::PublishedVolume;

/// How `ls` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// A table with a header.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

const HEADER: [&str; 7] = ["VOLUME NAME", "ENTRY", "POD", "PROPAGATION", "AGE", "HEALTH", "TARGET"];
/// How wide a cell may be. In a wider one the middle is left out: paths differ at their ends.
const CELL: Cut = Cut::columns(44).keeping_end(29);
/// Blanks between two columns.
const GAP: usize = 3;
/// Stands for an unknown value.
const UNKNOWN: &str = "-";

/// Unique names, one per line.
#[must_use]
pub fn names(volumes: &[PublishedVolume]) -> String {
    volumes.iter().map(|volume| full_name(volume) + "\n").collect()
}

/// A table, at the time `now`.
#[must_use]
pub fn table(volumes: &[PublishedVolume], now: Timestamp, whole: bool) -> String {
    let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    let rows = volumes.iter().map(|volume| {
        let cells = [
            volume.name.clone(),
            known(volume.entry.clone()),
            pod_path(volume).unwrap_or_else(|| volume.pod.uid.clone()),
            known(volume.propagation.clone()),
            known(volume.created_at.as_deref().and_then(|at| Some(age(at.parse().ok()?, now)))),
            health(volume),
            volume.mountpoint.clone(),
        ];
        if whole { cells } else { cells.map(|cell| CELL.apply(&cell).into_owned()) }
    });
    let rows: Vec<[String; 7]> = [HEADER.map(str::to_owned)].into_iter().chain(rows).collect();
    let columns = Columns::of(&rows, GAP);
    let mut text = String::new();
    rows.iter().for_each(|row| columns.plain_line(&mut text, row));
    text
}

/// The health of the volume, and whether it was renewed since containers may have started.
fn health(volume: &PublishedVolume) -> String {
    let status = volume.health.status.name();
    if volume.renewed_at.is_some() { format!("{status} (renewed)") } else { status.to_owned() }
}

/// The age in at most two units, as kubectl prints it.
fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minute, hour, day) = (60, 3600, 86400);
    let two = |big: i64, name: char, small: i64, small_name: char| match seconds % big / small {
        0 => format!("{}{name}", seconds / big),
        rest => format!("{}{name}{rest}{small_name}", seconds / big),
    };
    match seconds {
        s if s < 2 * minute => format!("{s}s"),
        s if s < 10 * minute => two(minute, 'm', 1, 's'),
        s if s < 3 * hour => format!("{}m", s / minute),
        s if s < 8 * hour => two(hour, 'h', minute, 'm'),
        s if s < 2 * day => format!("{}h", s / hour),
        s if s < 8 * day => two(day, 'd', hour, 'h'),
        s => format!("{}d", s / day),
    }
}

/// One JSON object per line, with the columns of the table under the names that `inspect` uses.
///
/// # Errors
/// None is known.
pub fn lines(volumes: &[PublishedVolume]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for volume in volumes {
        let line: Value = json!({
            "Name": volume.name,
            "Driver": volume.driver,
            "Mountpoint": volume.mountpoint,
            "Scope": volume.scope,
            "CreatedAt": volume.created_at,
            "Pod": volume.pod,
            "Entry": volume.entry,
            "Source": volume.source,
            "Propagation": volume.propagation,
            "Health": volume.health,
            "RenewedAt": volume.renewed_at,
        });
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::volumes::model::Pod;
    use service::source_health::SourceHealth;

    /// Some volume.
    pub(crate) fn volume(name: &str, namespace: &str, pod: &str) -> PublishedVolume {
        PublishedVolume {
            name: name.to_owned(),
            driver: "csi.hostmount.dev".to_owned(),
            mountpoint: format!("/var/lib/kubelet/pods/uid-{pod}/volumes/kubernetes.io~csi/{name}/mount"),
            scope: "local".to_owned(),
            created_at: Some("2026-11-24T20:00:00Z".to_owned()),
            pod: Pod {
                uid: format!("uid-{pod}"),
                namespace: Some(namespace.to_owned()),
                name: Some(pod.to_owned()),
                service_account: Some("default".to_owned()),
            },
            kind: None,
            entry: Some("data".to_owned()),
            entry_path: Some("/srv/data".to_owned()),
            sub_path: None,
            source: Some("/srv/data".to_owned()),
            propagation: Some("HostToContainer".to_owned()),
            options: [].into(),
            noted: true,
            path_mounts_noted: true,
            layers: Vec::new(),
            health: SourceHealth::Live.into(),
            source_health: None,
            shows: None,
            renewed_at: None,
            healing: None,
            containers: None,
            containers_unknown: None,
        }
    }

    #[test]
    fn the_table_is_aligned_and_shortened_unless_told() {
        let unknown = PublishedVolume {
            entry: None,
            created_at: None,
            pod: Pod { uid: "uid-b".to_owned(), namespace: None, name: None, service_account: None },
            health: SourceHealth::Hung.into(),
            ..volume("a", "", "b")
        };
        let volumes = [volume("models", "ml", "train"), unknown];
        let now = "2026-11-24T20:00:42.5Z".parse().unwrap();
        assert_eq!(
            table(&volumes, now, false),
            "VOLUME NAME   ENTRY   POD        PROPAGATION       AGE   HEALTH   TARGET\n\
             models        data    ml/train   HostToContainer   42s   Live     /var/lib/kubel…ubernetes.io~csi/models/mount\n\
             a             -       uid-b      HostToContainer   -     Hung     /var/lib/kubel…mes/kubernetes.io~csi/a/mount\n"
        );
        let renewed = PublishedVolume { renewed_at: Some("2026-11-24T20:00:10Z".to_owned()), ..volumes[0].clone() };
        assert!(table(&[renewed], now, false).contains("Live (renewed)   /var"));
        let whole = table(&volumes, now, true);
        assert!(whole.contains(&volumes[0].mountpoint) && !whole.contains('…'), "{whole}");
        assert_eq!(names(&volumes), format!("ml/train/models\n{}\n", volumes[1].mountpoint));
    }

    #[test]
    fn ages_are_told_as_kubectl_does() {
        let now = "2026-11-24T20:00:00Z".parse::<Timestamp>().unwrap();
        for (ago, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (86400 * 2 + 7200, "2d2h"),
            (86400 * 400, "400d"),
        ] {
            let then = Timestamp::from_second(now.as_second() - ago).unwrap();
            assert_eq!(age(then, now), text);
        }
    }

    #[test]
    fn a_line_of_json_is_an_object_with_the_columns() {
        let text = lines(&[volume("a\"b", "ml", "p"), volume("c", "ml", "p")]).unwrap();
        let parsed: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((parsed.len(), parsed[0]["Name"].as_str()), (2, Some("a\"b")));
        assert_eq!(parsed[1]["Health"]["Status"], "Live");
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let volume = volume("v", "ml", "p");
        let text = serde_json::to_string(&volume).unwrap();
        assert_eq!(serde_json::from_str::<PublishedVolume>(&text).unwrap(), volume);
    }
}
