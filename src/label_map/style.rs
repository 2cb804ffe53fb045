//! How a label map is written: the value of pixels without a class, and the colours of classes.

use super::palette::palette_color;
use crate::scores::UNLABELLED;

/// The choices of a caller about the values and colours of a label map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelStyle {
    /// The value of unlabelled pixels, no smaller than the number of classes; `None` for the largest value of the
    /// map's width.
    pub unlabelled: Option<u16>,
    /// The colours of the first classes. The others have those of [`palette_color`].
    pub colors: Vec<[u8; 3]>,
}

impl LabelStyle {
    /// Returns the colour of a class, or of [`UNLABELLED`].
    pub fn color(&self, id: u16) -> [u8; 3] {
        let own = self.colors.get(usize::from(id)).copied();
        own.unwrap_or_else(|| palette_color(id))
    }

    /// Returns the value of a label in a label map.
    pub(super) fn value(&self, label: u16) -> u16 {
        match (label, self.unlabelled) {
            (UNLABELLED, Some(value)) => value,
            _ => label,
        }
    }

    /// Returns the text that says which colour means which class, in the form of CVAT's `labelmap.txt`: a line per
    /// class, and one for pixels without a class.
    pub fn legend<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> String {
        let unlabelled = match names.clone().any(|name| name == "background") {
            true => "unlabelled",
            false => "background",
        };
        let mut text = "# label:color_rgb:parts:actions\n".to_owned();
        let classes = (0..).zip(names).map(|(id, name)| (self.color(id), name));
        for ([red, green, blue], name) in [(self.color(UNLABELLED), unlabelled)].into_iter().chain(classes) {
            // The form has no way to write a colon inside of a name.
            text.push_str(&format!("{}:{red},{green},{blue}::\n", name.replace(':', " ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_has_the_colours_of_all_classes_and_of_pixels_without_one() {
        let own = LabelStyle {
            colors: vec![[1, 2, 3]],
            ..LabelStyle::default()
        };
        assert_eq!(
            own.legend(["cat", "dog: brown"].into_iter()),
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\ndog  brown:0,128,0::\n"
        );
        let text = LabelStyle::default().legend(["background"].into_iter());
        assert_eq!(
            text,
            "# label:color_rgb:parts:actions\nunlabelled:0,0,0::\nbackground:128,0,0::\n"
        );
    }
}
