//! Compiles `proto/` into Rust without protoc: protox parses, tonic-prost-build generates.

use std::path::PathBuf;

use prost::Message;

/// Messages whose fields may hold a secret or a token. Their `Debug` is written by hand in `src/wire.rs`.
const SECRET: [&str; 2] = [".csi.v1.NodeStageVolumeRequest", ".csi.v1.NodePublishVolumeRequest"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["csi.proto", "pluginregistration.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .generate_default_stubs(true)
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    Ok(())
}
