//! Compiles `proto/` to Rust without protoc: protox parses, tonic-prost-build generates.
//!
//! It also writes the descriptors to `OUT_DIR/descriptor.bin`, for the test that compares them with CSI's field
//! numbers.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 2] = ["../../proto/csi.proto", "../../proto/pluginregistration.proto"];

/// Fields that may hold credentials. A message with one of them is generated without `Debug`. The lint
/// `missing_debug_implementations` then fails until `src/wire/lib.rs` implements `Debug` without the values.
const SENSITIVE: [&str; 4] = ["secrets", "volume_context", "publish_context", "mount_flags"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    println!("cargo:rerun-if-changed=build.rs");

    let descriptors = protox::compile(FILES, ["../../proto"])?;

    let mut without_debug = Vec::new();
    for file in &descriptors.file {
        // Messages still to check, each with its full name.
        let mut messages: Vec<_> =
            file.message_type.iter().map(|m| (format!(".{}.{}", file.package(), m.name()), m)).collect();
        while let Some((name, message)) = messages.pop() {
            messages.extend(message.nested_type.iter().map(|m| (format!("{name}.{}", m.name()), m)));
            if message.field.iter().any(|f| SENSITIVE.contains(&f.name())) {
                without_debug.push(name);
            }
        }
    }

    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        // Comments and positions aren't needed at run time.
        file.source_code_info = None;
    }
    std::fs::write(out_dir.join("descriptor.bin"), bare.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .build_transport(false)
        .generate_default_stubs(true)
        .skip_debug(without_debug)
        .compile_fds(descriptors)?;
    Ok(())
}
