//! Pictures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod machines;
use hostmount::picture::{self, Options};
#[test]
fn files() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, m) in [("small", machines::small()), ("n5x60", machines::node(5, 60)), ("n100x60", machines::node(100, 60)), ("hostile", machines::hostile())] {
        let o = Options::default();
        let t = std::time::Instant::now();
        std::fs::write(dir.join(format!("{name}.svg")), picture::svg(&m, &o)).unwrap();
        std::fs::write(dir.join(format!("{name}.dot")), picture::dot(&m, &o)).unwrap();
        let f = hostmount::subtrees::Forest::of(&m);
        println!("{name} {:?}", t.elapsed());
        std::fs::write(dir.join(format!("{name}.html")), picture::html(&m, &f, &o)).unwrap();
        println!("{name} {:?}", t.elapsed());
    }
}
