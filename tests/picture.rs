//! Pictures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod machines;
use hostmount::picture::{self, Options};
#[test]
fn files() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, m) in [("small", machines::small()), ("n5x60", machines::node(5, 60)), ("n100x40", machines::node(100, 40)), ("hostile", machines::hostile())] {
        let o = Options::default();
        let t = std::time::Instant::now();
        std::fs::write(dir.join(format!("{name}.svg")), picture::svg(&m, &o)).unwrap();
        std::fs::write(dir.join(format!("{name}.dot")), picture::dot(&m, &o)).unwrap();
        println!("{name} {:?}", t.elapsed());
    }
}
