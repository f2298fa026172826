//! Small images and recordings, made by hand.

/// A PNG file with this header and these compressed lines.
pub fn png_of(header: &[u8; 13], compressed: &[u8]) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        png.extend((data.len() as u32).to_be_bytes());
        let at = png.len();
        png.extend(kind);
        png.extend(data);
        let crc = crc32(&png[at..]);
        png.extend(crc.to_be_bytes());
    };
    chunk(b"IHDR", header);
    chunk(b"IDAT", compressed);
    chunk(b"IEND", b"");
    png
}

/// A PNG file of one colour, of at most 255 by 60 pixels.
pub fn png(width: u8, height: u8, colour: [u8; 3]) -> Vec<u8> {
    let mut line = vec![0];
    (0..width).for_each(|_| line.extend(colour));
    let lines = line.repeat(usize::from(height));
    let length = u16::try_from(lines.len()).expect("one block holds it");
    // zlib, with one block that is not compressed.
    let mut compressed = vec![0x78, 0x01, 0x01];
    compressed.extend(length.to_le_bytes());
    compressed.extend((!length).to_le_bytes());
    compressed.extend(&lines);
    let (a, b) = lines.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    compressed.extend((b << 16 | a).to_be_bytes());
    // Eight bits of each of three colours.
    png_of(
        &[0, 0, 0, width, 0, 0, 0, height, 8, 2, 0, 0, 0],
        &compressed,
    )
}

/// A WAV file with these samples of 16 bits.
pub fn wav(rate_hz: u32, samples: &[i16]) -> Vec<u8> {
    let bytes = 2 * samples.len() as u32;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + bytes).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    for number in [1u16, 1] {
        wav.extend(number.to_le_bytes());
    }
    wav.extend(rate_hz.to_le_bytes());
    wav.extend((rate_hz * 2).to_le_bytes());
    for number in [2u16, 16] {
        wav.extend(number.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend(bytes.to_le_bytes());
    wav.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    wav
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    })
}
