//! Has the linker pack the binary's relocations, where the C library can read them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if applies_packed_relocations() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether the C library that is linked in knows relocations as a bit map (DT_RELR): glibc from 2.36 on. A
/// position-independent binary of Rust has 20,000 of them, for its tables of methods; as a list they take 480 KiB. An
/// older start-up code would leave them out, and the program die at once; so what isn't known for sure, as when
/// compiling for another machine, counts as no.
fn applies_packed_relocations() -> bool {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    let native = std::env::var("HOST").is_ok_and(|host| is("TARGET", &host));
    if !native || !is("CARGO_CFG_TARGET_ENV", "gnu") || !is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        return false;
    }
    let Ok(output) = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = said.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    version.is_some_and(|(major, minor)| (number(major), number(minor)) >= (2, 36))
}
