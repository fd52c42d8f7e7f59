use super::*;

/// A picture whose bytes are all different from their neighbours'.
fn pattern(width: usize, height: usize) -> Image {
    let byte = |i: usize| (i * 37 % 256) as u8 ^ (i / 7) as u8;
    Image::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
}

#[test]
fn pictures_have_as_many_bytes_as_they_say() {
    assert_eq!(pattern(2, 3).rgb().len(), 18);
    for (width, height, bytes) in
        [(0, 3, 0), (3, 0, 0), (2, 2, 11), (2, 2, 13), (usize::MAX, 2, 6), (1 << 14, 1 << 13, 0)]
    {
        assert!(matches!(Image::new(width, height, vec![0; bytes]), Err(Error::Shape { .. })), "{width} x {height}");
    }
    assert!(matches!(resize(&pattern(2, 2), Filter::Bicubic, 0, 1), Err(Error::Shape { .. })));
    assert!(matches!(resize(&pattern(2, 2), Filter::Bicubic, usize::MAX, 2), Err(Error::Shape { .. })));
}

#[test]
fn resizing_keeps_what_it_must() {
    let image = pattern(7, 5);
    assert_eq!(resize(&image, Filter::Bicubic, 7, 5).unwrap(), image);
    let grey = Image::new(13, 9, vec![201; 13 * 9 * 3]).unwrap();
    for (width, height) in [(1, 1), (5, 17), (40, 3), (13, 4)] {
        let resized = resize(&grey, Filter::Bicubic, width, height).unwrap();
        assert_eq!((resized.width(), resized.height()), (width, height));
        assert!(resized.rgb().iter().all(|&byte| byte == 201), "{width} x {height}");
    }
    // An edge overshoots, and is clamped to the range of a byte.
    let edge: Vec<u8> = [0, 0, 0, 255, 255, 255].into_iter().flat_map(|v| [v; 3]).collect();
    let wide = resize(&Image::new(6, 1, edge).unwrap(), Filter::Bicubic, 18, 1).unwrap();
    assert_eq!(wide.rgb()[..3], [0; 3]);
    assert_eq!(wide.rgb()[51..], [255; 3]);
    assert!(wide.rgb().windows(4).all(|w| w[0] <= w[3]), "{:?}", wide.rgb());
}

#[test]
fn weights_are_those_of_the_kernel() {
    // Doubling: the cubic kernel with a = -0.5 at distances of 1.25, 0.25, 0.75 and 1.75, in 128ths.
    let taps = &Taps::new(Filter::Bicubic, 10, 20)[9];
    let weights: Vec<f64> = taps.weights.iter().map(|&w| f64::from(w) / f64::from(1 << 15)).collect();
    let wanted = [-9.0, 111.0, 29.0, -3.0];
    assert_eq!(taps.first, 3);
    assert!(weights.iter().zip(wanted).all(|(w, v)| (w - v).abs() < 1e-3), "{weights:?}");
    for (input, output) in [(1, 9), (9, 1), (97, 224), (320, 298), (3, 2)] {
        for taps in Taps::new(Filter::Bicubic, input, output) {
            let sum: i32 = taps.weights.iter().sum();
            assert!((sum - (1 << WEIGHT_BITS)).unsigned_abs() <= taps.weights.len() as u32);
            assert!(taps.first + taps.weights.len() <= input);
        }
    }
}
