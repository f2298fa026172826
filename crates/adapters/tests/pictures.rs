//! Images as programs write them, and files that are cut, patched or unusual: each is decoded right or refused. None
//! gives an answer about a picture that is partly grey.

use penstock_adapters::picture::{Allowance, Picture, picture};
use penstock_adapters::{Blob, Part, RefusalKind};
use proptest::prelude::*;

/// 64 by 48 pixels, noisy: the left half is red and the right one blue. Written by Pillow 13.
const JPEG: &[u8] = include_bytes!("data/noise.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("data/noise-progressive.jpg");
/// A restart marker behind each row of blocks.
const RESTARTS: &[u8] = include_bytes!("data/noise-restarts.jpg");
/// Cyan, magenta, yellow and black, inverted, as Adobe's programs write them.
const CMYK: &[u8] = include_bytes!("data/noise-cmyk.jpg");
/// The same picture in grey.
const GREY: &[u8] = include_bytes!("data/noise-grey.jpg");
/// Every kind of JPEG.
const ALL: [&[u8]; 5] = [JPEG, PROGRESSIVE, RESTARTS, CMYK, GREY];
const END: &[u8] = b"\xff\xd9";

fn decoded(body: &[u8]) -> Result<Picture, RefusalKind> {
    let part = Part::Image(Blob {
        media_type: None,
        body,
    });
    picture(&part, false, &mut Allowance::default())
}

fn said(body: &[u8]) -> String {
    match decoded(body) {
        Err(RefusalKind::InvalidContent(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(picture) => panic!("{} by {} pixels", picture.width, picture.height),
    }
}

/// The mean colour of the columns from `from` to `to`.
fn mean(picture: &Picture, from: usize, to: usize) -> Vec<f64> {
    let mut sums = vec![0.0; picture.channels];
    for row in picture.bytes.chunks_exact(picture.width * picture.channels) {
        for pixel in row
            .chunks_exact(picture.channels)
            .skip(from)
            .take(to - from)
        {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += f64::from(*value);
            }
        }
    }
    let pixels = (picture.height * (to - from)) as f64;
    sums.into_iter().map(|sum| sum / pixels).collect()
}

/// Returns the position at which the compressed data of the last scan begin.
fn last_scan(jpeg: &[u8]) -> usize {
    let marker = jpeg
        .windows(2)
        .rposition(|pair| pair == b"\xff\xda")
        .unwrap();
    marker + 2 + usize::from(u16::from_be_bytes([jpeg[marker + 2], jpeg[marker + 3]]))
}

#[test]
fn every_kind_of_jpeg_shows_the_same_picture() {
    for (jpeg, name) in ALL
        .iter()
        .zip(["baseline", "progressive", "restarts", "cmyk"])
    {
        let picture = decoded(jpeg).unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        assert_eq!(
            (picture.width, picture.height, picture.channels),
            (64, 48, 3),
            "{name}"
        );
        let (left, right) = (mean(&picture, 0, 30), mean(&picture, 34, 64));
        assert!(
            (left[0] - 210.0).abs() < 12.0 && left[1] < 50.0 && left[2] < 50.0,
            "{name}: {left:?}"
        );
        assert!(
            (right[2] - 210.0).abs() < 12.0 && right[0] < 50.0 && right[1] < 50.0,
            "{name}: {right:?}"
        );
    }
    let grey = decoded(GREY).unwrap();
    assert_eq!((grey.width, grey.height, grey.channels), (64, 48, 1));
}

#[test]
fn a_jpeg_whose_data_end_early_is_refused_though_its_end_is_marked() {
    for (kind, jpeg) in ALL.iter().enumerate() {
        let (from, to) = (last_scan(jpeg), jpeg.len() - END.len());
        assert!(to - from > 60, "{kind}: the last scan has data");
        for kept in [0, 1, (to - from) / 4, (to - from) / 2, (to - from) * 3 / 4] {
            let mut cut = jpeg[..from + kept].to_vec();
            // Not within a marker or a stuffed byte.
            while cut.last() == Some(&0xff) {
                cut.pop();
            }
            cut.extend(END);
            assert!(
                decoded(&cut).is_err(),
                "kind {kind}, {kept} of {} bytes",
                to - from
            );
        }
    }
}

#[test]
fn a_jpeg_that_lacks_a_row_between_two_restarts_is_refused() {
    let restarts: Vec<usize> = (last_scan(RESTARTS)..RESTARTS.len() - 1)
        .filter(|at| RESTARTS[*at] == 0xff && (0xd0..=0xd7).contains(&RESTARTS[at + 1]))
        .collect();
    assert!(restarts.len() >= 2);
    // The data of the second row are cut to a few bytes.
    let mut short = RESTARTS[..restarts[0] + 8].to_vec();
    short.extend(&RESTARTS[restarts[1]..]);
    assert!(decoded(&short).is_err());
}

#[test]
fn bytes_after_the_end_of_an_image_are_ignored() {
    let mut png = png_of(
        8,
        8,
        png::ColorType::Grayscale,
        png::BitDepth::Eight,
        &[9; 64],
    );
    png.extend(b"more");
    assert_eq!(decoded(&png).unwrap().bytes, [9; 64]);
    for jpeg in ALL {
        // A second image, as phones append one.
        let twice = [jpeg, JPEG].concat();
        assert_eq!(decoded(&twice).unwrap().bytes, decoded(jpeg).unwrap().bytes);
    }
}

#[test]
fn a_second_image_behind_it_does_not_hide_that_the_first_is_cut() {
    for jpeg in [JPEG, RESTARTS, GREY, CMYK] {
        let (from, to) = (last_scan(jpeg), jpeg.len());
        let cut = [&jpeg[..from + (to - from) / 2], JPEG].concat();
        assert!(decoded(&cut).is_err());
    }
}

#[test]
fn a_preview_in_the_metadata_does_not_hide_that_the_image_is_cut() {
    let preview: Vec<u8> = [b"Exif\0\0", &JPEG[..300], END].concat();
    // Fill bytes may stand before any marker.
    for fill in [&b""[..], b"\xff", b"\xff\xff\xff"] {
        let mut file = JPEG[..2].to_vec();
        file.extend(fill);
        file.extend(b"\xff\xe1");
        file.extend((preview.len() as u16 + 2).to_be_bytes());
        file.extend(&preview);
        file.extend(&JPEG[2..]);
        assert!(decoded(&file).is_ok(), "{fill:?}");
        let from = file.len() - JPEG.len() + last_scan(JPEG);
        assert!(decoded(&file[..from + 100]).is_err(), "{fill:?}");
    }
}

#[test]
fn a_jpeg_of_a_kind_that_is_not_decoded_is_refused() {
    let frame = JPEG
        .windows(2)
        .position(|pair| pair == b"\xff\xc0")
        .unwrap();
    let with = |at: usize, byte: u8| {
        let mut file = JPEG.to_vec();
        file[frame + at] = byte;
        said(&file)
    };
    with(4, 12); // bits of a sample
    with(4, 16);
    with(1, 0xc3); // lossless
    with(1, 0xc9); // arithmetic coding
    with(1, 0xca);
    // A height that only a marker behind the data tells.
    let mut unknown = JPEG.to_vec();
    unknown[frame + 5..frame + 7].fill(0);
    said(&unknown);
    // More rows than there are data for.
    let mut taller = JPEG.to_vec();
    taller[frame + 6] = 96;
    said(&taller);
    // Without the tables that a frame of Motion JPEG leaves out.
    let tables = JPEG
        .windows(2)
        .position(|pair| pair == b"\xff\xc4")
        .unwrap();
    let scan = JPEG
        .windows(2)
        .position(|pair| pair == b"\xff\xda")
        .unwrap();
    assert!(decoded(&[&JPEG[..tables], &JPEG[scan..]].concat()).is_err());
}

/// A chunk of a PNG.
fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = !0u32;
    for byte in name.iter().chain(content) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    [
        &(content.len() as u32).to_be_bytes()[..],
        name,
        content,
        &(!crc).to_be_bytes(),
    ]
    .concat()
}

fn png_of(
    width: u32,
    height: u32,
    colour: png::ColorType,
    depth: png::BitDepth,
    bytes: &[u8],
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(&[250, 0, 0, 0, 250, 0, 0, 0, 250][..]);
        encoder.set_trns(&[255, 0][..]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(bytes).unwrap();
    drop(writer);
    file
}

/// The file with another chunk before the first with this name.
fn inserted(file: &[u8], before: &[u8; 4], new: &[u8]) -> Vec<u8> {
    let at = file.windows(4).position(|name| name == before).unwrap() - 4;
    [&file[..at], new, &file[at..]].concat()
}

#[test]
fn every_depth_and_palette_comes_out_as_eight_bits() {
    use png::{BitDepth, ColorType};
    let deep = png_of(
        2,
        1,
        ColorType::Rgb,
        BitDepth::Sixteen,
        &[255, 255, 0, 0, 128, 0, 0, 9, 255, 0, 1, 1],
    );
    assert_eq!(decoded(&deep).unwrap().bytes, [255, 0, 128, 0, 255, 1]);
    let deep = png_of(
        2,
        1,
        ColorType::GrayscaleAlpha,
        BitDepth::Sixteen,
        &[10, 0, 255, 255, 10, 0, 0, 0],
    );
    assert_eq!(decoded(&deep).unwrap().bytes, [10, 255]);
    // Red, green without any opacity, blue.
    let palette = png_of(3, 1, ColorType::Indexed, BitDepth::Two, &[0b0001_1000]);
    assert_eq!(
        decoded(&palette).unwrap().bytes,
        [250, 0, 0, 255, 255, 255, 0, 0, 250]
    );
    let bits = png_of(8, 1, ColorType::Grayscale, BitDepth::One, &[0b1010_0000]);
    assert_eq!(decoded(&bits).unwrap().bytes, [255, 0, 255, 0, 0, 0, 0, 0]);
    // One grey that counts as transparent.
    let grey = png_of(2, 1, ColorType::Grayscale, BitDepth::Eight, &[7, 8]);
    let keyed = inserted(&grey, b"IDAT", &chunk(b"tRNS", &[0, 7]));
    assert_eq!(decoded(&keyed).unwrap().bytes, [255, 8]);
}

#[test]
fn a_palette_that_lacks_a_colour_that_is_used_is_refused() {
    let file = png_of(
        4,
        1,
        png::ColorType::Indexed,
        png::BitDepth::Eight,
        &[0, 1, 2, 3],
    );
    assert!(said(&file).contains("palette"));
    // The index is in a byte of several.
    let file = png_of(
        4,
        1,
        png::ColorType::Indexed,
        png::BitDepth::Two,
        &[0b0001_1011],
    );
    assert!(said(&file).contains("palette"));
    let good = png_of(
        3,
        1,
        png::ColorType::Indexed,
        png::BitDepth::Two,
        &[0b0001_1000],
    );
    assert!(decoded(&good).is_ok());
}

#[test]
fn a_png_is_turned_the_way_its_metadata_says() {
    let exif = |value: u8| {
        [
            &b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..],
            &[value],
            &[0; 6],
        ]
        .concat()
    };
    let file = png_of(
        3,
        2,
        png::ColorType::Grayscale,
        png::BitDepth::Eight,
        &[1, 2, 3, 4, 5, 6],
    );
    for before in [b"IDAT", b"IEND"] {
        let picture = decoded(&inserted(&file, before, &chunk(b"eXIf", &exif(6)))).unwrap();
        assert_eq!((picture.width, picture.height), (2, 3));
        assert_eq!(picture.bytes, [4, 1, 5, 2, 6, 3]);
    }
    for nothing in [0, 1, 9] {
        let picture = decoded(&inserted(&file, b"IDAT", &chunk(b"eXIf", &exif(nothing)))).unwrap();
        assert_eq!(picture.bytes, [1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn a_png_with_fewer_rows_than_it_states_is_refused() {
    let mut taller = png_of(
        8,
        8,
        png::ColorType::Grayscale,
        png::BitDepth::Eight,
        &[9; 64],
    );
    let mut header = taller[16..29].to_vec();
    header[7] = 16;
    taller.splice(8..33, chunk(b"IHDR", &header));
    assert!(said(&taller).contains("cannot be read"));
    // Wider than the rows are.
    header[7] = 8;
    header[3] = 9;
    taller.splice(8..33, chunk(b"IHDR", &header));
    assert!(said(&taller).contains("cannot be read"));
}

#[test]
fn the_first_frame_of_an_animation_is_the_whole_picture_or_refused() {
    let file = png_of(
        4,
        4,
        png::ColorType::Grayscale,
        png::BitDepth::Eight,
        &[9; 16],
    );
    let control = chunk(b"acTL", &[0, 0, 0, 1, 0, 0, 0, 0]);
    let frame = |width: u8, height: u8| {
        let mut content = vec![0; 26];
        (content[7], content[11], content[23]) = (width, height, 10);
        chunk(b"fcTL", &content)
    };
    let animated = inserted(&file, b"IDAT", &[control.clone(), frame(4, 4)].concat());
    assert_eq!(decoded(&animated).unwrap().bytes, [9; 16]);
    let smaller = inserted(&file, b"IDAT", &[control, frame(2, 2)].concat());
    if let Ok(picture) = decoded(&smaller) {
        assert_eq!(picture.bytes.len(), picture.width * picture.height);
    }
}

proptest! {
    #[test]
    fn a_changed_file_gives_a_whole_picture_or_an_error(which in 0..ALL.len() + 2, at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..4)) {
        let mut file = match which.checked_sub(ALL.len()) {
            None => ALL[which].to_vec(),
            Some(0) => png_of(5, 3, png::ColorType::Rgb, png::BitDepth::Eight, &[99; 45]),
            Some(_) => png_of(6, 3, png::ColorType::Indexed, png::BitDepth::Two, &[0b0001_1000; 6]),
        };
        let at = at.index(file.len());
        for (to, from) in file[at..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        if let Ok(picture) = decoded(&file) {
            prop_assert_eq!(picture.bytes.len(), picture.width * picture.height * picture.channels);
        }
    }
}
