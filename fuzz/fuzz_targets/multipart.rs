//! Bodies of uploads: no panic, and every part is a piece of the body that contains no boundary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_gate::multipart;

fuzz_target!(|body: &[u8]| {
    let boundary = "XX";
    let Ok(parts) = multipart::parts(body, boundary) else {
        return;
    };
    for part in parts {
        let delimiter = b"\r\n--XX";
        assert!(
            !part
                .content
                .windows(delimiter.len())
                .any(|window| window == delimiter)
        );
        assert!(part.content.len() < body.len());
    }
    let _ = multipart::boundary(&String::from_utf8_lossy(body));
});
