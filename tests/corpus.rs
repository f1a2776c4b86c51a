//! The corpus of the fuzz targets, replayed: what once reached new code, or crashed, does so with every test run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "../fuzz/bodies.rs"]
#[allow(unreachable_pub, reason = "they are public to the fuzz targets")]
mod bodies;

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&corpus).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| body(&bytes)).is_err() {
            panic!("{} crashes the target {target}", path.display());
        }
        // Cut short, which a fuzzer tries as well.
        body(&bytes[..bytes.len() / 2]);
        count += 1;
    }
    println!("{target}: {count} inputs");
    assert!(count >= 10, "the corpus of {target} is missing");
}

#[test]
fn the_allow_list_is_read_without_a_crash() {
    replay("config", bodies::config);
}

#[test]
fn mount_tables_are_read_without_a_crash() {
    replay("mountinfo", bodies::mountinfo);
}

#[test]
fn names_are_read_without_a_crash() {
    replay("names", bodies::names);
}

#[test]
fn requests_are_read_without_a_crash() {
    replay("messages", bodies::messages);
}

/// Seeds for the fuzzer, made of good requests. Not a test: run it with `--ignored` after the messages have changed.
#[test]
#[ignore = "writes fuzz/corpus/messages"]
fn write_message_seeds() {
    use prost::Message;
    use wire::csi;
    let context = [
        ("volume", "data"),
        ("subPath", "a/b"),
        ("propagation", "Bidirectional"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "p"),
        ("csi.storage.k8s.io/pod.namespace", "ml"),
        ("csi.storage.k8s.io/pod.uid", "u"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ];
    let context = context.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let target = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/mount".to_owned();
    let staging = "/var/lib/kubelet/plugins/kubernetes.io/csi/d/h/globalmount".to_owned();
    let mount =
        csi::volume_capability::MountVolume { mount_flags: vec!["ro".into(), "rslave".into()], ..Default::default() };
    let capability = Some(csi::VolumeCapability {
        access_mode: Some(csi::volume_capability::AccessMode { mode: 7 }),
        access_type: Some(csi::volume_capability::AccessType::Mount(mount)),
    });
    let inline = csi::NodePublishVolumeRequest {
        volume_id: "csi-1".into(),
        target_path: target.clone(),
        volume_capability: capability.clone(),
        volume_context: context.into_iter().collect(),
        ..Default::default()
    };
    let persistent = csi::NodePublishVolumeRequest {
        volume_id: "data/a".into(),
        staging_target_path: staging.clone(),
        volume_context: std::collections::HashMap::new(),
        readonly: true,
        ..inline.clone()
    };
    let stage = csi::NodeStageVolumeRequest {
        volume_id: "data".into(),
        staging_target_path: staging.clone(),
        volume_capability: capability,
        ..Default::default()
    };
    let unpublish = csi::NodeUnpublishVolumeRequest { volume_id: "data".into(), target_path: target.clone() };
    let unstage = csi::NodeUnstageVolumeRequest { volume_id: "data".into(), staging_target_path: staging };
    let stats =
        csi::NodeGetVolumeStatsRequest { volume_id: "data".into(), volume_path: target.clone(), ..Default::default() };
    let health =
        csi::NodeGetVolumeHealthRequest { volume_id: "data".into(), volume_publish_path: target, ..Default::default() };
    let seeds = [
        (0, inline.encode_to_vec()),
        (0, persistent.encode_to_vec()),
        (1, stage.encode_to_vec()),
        (2, unpublish.encode_to_vec()),
        (3, unstage.encode_to_vec()),
        (4, stats.encode_to_vec()),
        (5, health.encode_to_vec()),
        (6, vec![]),
        (7, vec![0x08, 0x01, 0x12, 0x01, b'x']),
    ];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/messages");
    std::fs::create_dir_all(&corpus).unwrap();
    for (n, (which, bytes)) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{n}")), [vec![which], bytes].concat()).unwrap();
    }
}
