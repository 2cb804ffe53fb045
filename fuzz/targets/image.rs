// Any bytes are an image within the limit, or an error. Nothing panics, not even inside a decoder's own guard.

/// Most pixels of an image, so that a run spends its time on the forms of files.
const MOST_PIXELS: u64 = 1 << 16;

pub fn run(bytes: &[u8]) {
    if let Ok(image) = maskclip::image::decode(bytes, maskclip::image::Orientation::Exif, MOST_PIXELS) {
        let (width, height) = (u64::from(image.width()), u64::from(image.height()));
        assert!(
            width * height > 0 && width * height <= MOST_PIXELS,
            "{width} x {height}"
        );
        assert_eq!(image.as_raw().len() as u64, 3 * width * height);
    }
}
