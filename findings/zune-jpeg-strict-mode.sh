#!/usr/bin/env bash
# zune-jpeg 0.5.15 (crates.io), with zune-core 0.5.3: `set_strict_mode(true)` accepts a JPEG whose image data are missing, if its end
# marker is there. The missing part is made up, and decode() returns Ok.
#
# Strict mode refuses a file that ends without the marker. A marker that comes too early (a program that closed a broken upload,
# a lost restart interval) counts as zero bits instead, for the rest of the image: a flat
# pattern, or grey.
#
# Seen here, for a JPEG of 64 by 48 pixels of noise:
#   whole: Ok, 216 different values in the last 8 rows
#   cut (half of the data, no end marker): Err
#   half (half of the data, then an end marker): Ok, 21 different values in the last 8 rows
#   none (no data, then an end marker): Ok, 22 different values in the last 8 rows
# Do this: check that the data are whole before decoding. Ones behind the data (FF 00 before the marker) are no Huffman code, so a
# decoder that still wants data fails on them.
#
# Needs cargo and Python. Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: pillow==13.0.0
(cd "$folder" && venv/bin/python) <<'PY'
import random
from PIL import Image

random.seed(1)
Image.frombytes("L", (64, 48), random.randbytes(64 * 48)).save("whole.jpg", quality=90)
whole = open("whole.jpg", "rb").read()
scan = whole.index(b"\xff\xda")
data = scan + 2 + int.from_bytes(whole[scan + 2 : scan + 4], "big")
half = whole[: data + (len(whole) - data) // 2].rstrip(b"\xff")
for name, body in {"cut": half, "half": half + b"\xff\xd9", "none": whole[:data] + b"\xff\xd9"}.items():
    open(f"{name}.jpg", "wb").write(body)
PY
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'END'
[package]
name = "strict"
version = "0.0.0"
edition = "2021"
[dependencies]
zune-core = "=0.5.3"
zune-jpeg = "=0.5.15"
END
cat >"$folder/src/main.rs" <<'END'
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

fn main() {
    let mut seen = Vec::new();
    for name in ["whole", "cut", "half", "none"] {
        let body = std::fs::read(format!("{name}.jpg")).unwrap();
        let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::Luma);
        let told = match JpegDecoder::new_with_options(ZCursor::new(&body[..]), options).decode() {
            Err(_) => "Err".to_owned(),
            Ok(pixels) => {
                let values = |rows: &[u8]| rows.iter().collect::<std::collections::HashSet<_>>().len();
                format!("Ok, {} different values in the last 8 rows", values(&pixels[40 * 64..]))
            }
        };
        println!("{name}: {told}");
        seen.push(told);
    }
    let wanted = ["Ok, 216", "Err", "Ok, 21 ", "Ok, 22 "];
    let same = seen.iter().zip(wanted).all(|(told, wanted)| told.starts_with(wanted));
    std::process::exit(i32::from(!same));
}
END
cd "$folder"
CARGO_TARGET_DIR="$folder/target" cargo run --quiet
