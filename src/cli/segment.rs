//! `maskclip segment`: labels one image and shows it with the classes' colours over it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::Args;
use tokio::runtime::Runtime;

use super::arguments::{ConfigArguments, ModelArguments};
use super::classes::VocabularyArguments;
use super::command_engine::start_engine;
use super::disk::OpenStore;
use super::measure::{RequestArguments, Result, resolve, set_all, write};
use super::output::{note, print, print_bytes};
use crate::config::Config;
use crate::engine::{
    ClassResult, FeatureFields, ImageSource, OutputOptions, Protocol, SegmentFields, SegmentRequest, Segmentation,
    VocabularyChoice,
};
use crate::formats::{drawn_over, png};
use crate::image::{Orientation, decode};
use crate::label_map::{EncodedLabelMap, LabelMapFormat, palette_color};
use crate::support::read_regular_file;

/// Most bytes of base64 in one command of kitty's protocol.
const KITTY_CHUNK: usize = 4096;

/// Arguments of `maskclip segment`.
#[derive(Debug, Args)]
pub struct SegmentArguments {
    /// The image.
    image: PathBuf,
    #[command(flatten)]
    vocabulary: VocabularyArguments,
    /// The file for the overlay, a PNG, or `-` for standard output, to which nothing else goes then. By default the
    /// image's name with `.overlay.png`, in the present folder.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The share of the classes' colours, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    opacity: f32,
    /// A published protocol such as `sclip-voc21` (docs/options.md), which sets everything. The flags below override
    /// it.
    #[arg(long, value_name = "NAME")]
    protocol: Option<Protocol>,
    #[command(flatten, next_help_heading = "Request (fields left out have their defaults)")]
    request: RequestArguments,
    #[command(flatten, next_help_heading = "Model and settings")]
    config: ConfigArguments,
    #[command(flatten)]
    model: ModelArguments,
}

/// Labels the image, writes the overlay and prints what was found. The overlay's path goes to standard output, or the
/// overlay itself.
pub fn run(arguments: SegmentArguments) -> Result<()> {
    if !(0.0..=1.0).contains(&arguments.opacity) {
        return Err("--opacity is a share from 0 to 1".into());
    }
    let config = arguments.config.start(arguments.model.settings())?;
    let path = &arguments.image;
    let target = Target::new(arguments.output.as_deref(), path)?;
    let bytes = read_regular_file(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let image = Bytes::from(bytes);
    let mut fields = SegmentFields {
        features: FeatureFields {
            protocol: arguments.protocol,
            deadline_seconds: Some(config.engine.max_deadline_seconds),
            ..FeatureFields::default()
        },
        output: OutputOptions {
            label_map: LabelMapFormat::Raw,
            ..OutputOptions::default()
        },
        ..SegmentFields::default()
    };
    set_all(&mut fields, &arguments.request.axes())?;
    let orientation = fields.features.orientation.unwrap_or_default();
    let segmentation = segment(&arguments, &config, fields, image.clone())?;
    let overlay = overlay(&image, orientation, &segmentation, arguments.opacity, &config)?;
    if let Target::File(output) = &target {
        write(output, &overlay)?;
    }
    for warning in &segmentation.warnings {
        note(format!("warning: {}", warning.message));
    }
    if std::io::stdout().is_terminal()
        && let Some(picture) = Picture::of_terminal(|name| std::env::var(name).ok())
    {
        print(&picture.shows(&overlay))?;
    }
    note(found(&segmentation));
    match target {
        Target::File(output) => Ok(print(&format!("{}\n", output.display()))?),
        Target::StandardOutput => Ok(print_bytes(&overlay)?),
    }
}

/// Where the overlay goes.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    File(PathBuf),
    /// Where nobody reads it as text.
    StandardOutput,
}

impl Target {
    /// Returns what the flag names, by default a file in the present folder.
    fn new(output: Option<&Path>, image: &Path) -> Result<Self> {
        if output == Some(Path::new("-")) {
            return match std::io::stdout().is_terminal() {
                true => {
                    Err("standard output is a terminal, which shows no PNG: name a file as --output, or a pipe".into())
                }
                false => Ok(Self::StandardOutput),
            };
        }
        let file = output.map_or_else(|| default_output(image), Path::to_owned);
        let is = |file: &Path| file.canonicalize().ok();
        match is(&file).is_some_and(|file| is(image) == Some(file)) {
            true => {
                let image = image.display();
                Err(format!("the overlay would overwrite the image, {image}: name another --output").into())
            }
            false => Ok(Self::File(file)),
        }
    }
}

/// Asks an engine of its own for the labels.
fn segment(arguments: &SegmentArguments, config: &Config, fields: SegmentFields, image: Bytes) -> Result<Segmentation> {
    let model = config.asked_models().find_first()?;
    let store = OpenStore::for_reading(&config.vocabulary);
    let registry = store.registry(config);
    let vocabulary = arguments.vocabulary.vocabulary(arguments.protocol, &registry, config)?;
    Runtime::new()?.block_on(async {
        let (engine, model) = start_engine(config.engine_settings(), model, &store).await?;
        resolve(&fields, engine.settings(), &vocabulary.options, &model)?;
        let fields = SegmentFields {
            vocabulary: Some(VocabularyChoice::Defined(vocabulary)),
            ..fields
        };
        engine.embed_for(&fields).await?;
        let request = SegmentRequest {
            image: ImageSource::Upload(image),
            fields,
        };
        Ok(engine.segment_for_command(request).await?)
    })
}

fn overlay(
    image: &[u8],
    orientation: Orientation,
    segmentation: &Segmentation,
    opacity: f32,
    config: &Config,
) -> Result<Vec<u8>> {
    let EncodedLabelMap::Raw(rows) = &segmentation.label_map else {
        unreachable!("rows of class ids were asked for");
    };
    let pixels = decode(image, orientation, config.limits.input.max_image_pixels)?;
    let classes = segmentation.classes.len();
    let label = |&label: &u16| if usize::from(label) < classes { label } else { u16::MAX };
    let labels: Vec<u16> = rows.iter().flatten().map(label).collect();
    Ok(png(&drawn_over(&pixels, &labels, palette_color, opacity)))
}

/// Returns the image's name with another ending, in the present folder.
fn default_output(image: &Path) -> PathBuf {
    let mut name = image.file_stem().unwrap_or_default().to_owned();
    name.push(".overlay.png");
    PathBuf::from(name)
}

/// Returns the classes that were found, the largest first, one a line.
fn found(segmentation: &Segmentation) -> String {
    let pixels = u64::from(segmentation.width) * u64::from(segmentation.height);
    let mut classes: Vec<&ClassResult> = segmentation
        .classes
        .iter()
        .filter(|class| class.statistics.pixels > 0)
        .collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.statistics.pixels));
    let line = |class: &ClassResult| {
        let share = 100.0 * class.statistics.pixels as f64 / pixels as f64;
        let confidence = class.statistics.mean_confidence.unwrap_or(0.0);
        format!(
            "{share:5.1} %  confidence {confidence:.2}  #{}  {}",
            hex::encode(class.color),
            class.name
        )
    };
    match classes.is_empty() {
        true => "none of the classes was found".to_owned(),
        false => classes.into_iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

/// How a terminal shows pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Picture {
    /// The protocol of kitty, <https://sw.kovidgoyal.net/kitty/graphics-protocol>.
    Kitty,
    /// That of iTerm2, <https://iterm2.com/documentation-images.html>.
    Iterm,
}

impl Picture {
    /// Returns the way of the terminal that the environment names, if it has one.
    fn of_terminal(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let is = |name: &str, values: &[&str]| variable(name).is_some_and(|value| values.contains(&value.as_str()));
        // Multiplexers hand on the variables of the terminal around them, and not its pictures.
        if variable("TMUX").is_some() || variable("STY").is_some() {
            return None;
        }
        if variable("KITTY_WINDOW_ID").is_some() || is("TERM", &["xterm-kitty", "xterm-ghostty"]) {
            return Some(Self::Kitty);
        }
        is("TERM_PROGRAM", &["iTerm.app", "WezTerm", "vscode"]).then_some(Self::Iterm)
    }

    /// Returns the text that makes the terminal show a PNG.
    fn shows(self, png: &[u8]) -> String {
        let text = BASE64_STANDARD.encode(png);
        match self {
            Self::Iterm => format!("\x1b]1337;File=inline=1;size={}:{text}\x07\n", png.len()),
            Self::Kitty => {
                let chunks: Vec<&str> = (0..text.len())
                    .step_by(KITTY_CHUNK)
                    .map(|start| &text[start..text.len().min(start + KITTY_CHUNK)])
                    .collect();
                let last = chunks.len() - 1;
                let command = |(place, chunk): (usize, &&str)| {
                    let what = if place == 0 { "a=T,f=100," } else { "" };
                    format!("\x1b_G{what}m={};{chunk}\x1b\\", u8::from(place < last))
                };
                chunks.iter().enumerate().map(command).collect::<String>() + "\n"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_known_by_its_environment() {
        let of = |name: &str, value: &str| Picture::of_terminal(|asked| (asked == name).then(|| value.to_owned()));
        assert_eq!(of("TERM", "xterm-kitty"), Some(Picture::Kitty));
        assert_eq!(of("KITTY_WINDOW_ID", "1"), Some(Picture::Kitty));
        assert_eq!(of("TERM_PROGRAM", "WezTerm"), Some(Picture::Iterm));
        assert_eq!(of("TERM", "xterm-256color"), None);
        for multiplexer in ["TMUX", "STY"] {
            let inside = |asked: &str| {
                [multiplexer, "KITTY_WINDOW_ID"]
                    .contains(&asked)
                    .then(|| "1".to_owned())
            };
            assert_eq!(Picture::of_terminal(inside), None);
        }
    }

    #[test]
    fn a_picture_is_sent_in_pieces() {
        assert_eq!(
            Picture::Iterm.shows(b"abc"),
            "\x1b]1337;File=inline=1;size=3:YWJj\x07\n"
        );
        assert_eq!(Picture::Kitty.shows(b"abc"), "\x1b_Ga=T,f=100,m=0;YWJj\x1b\\\n");
        let long = Picture::Kitty.shows(&[0; 4000]);
        let commands: Vec<_> = long.trim_end().split_terminator("\x1b\\").collect();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].starts_with("\x1b_Ga=T,f=100,m=1;") && commands[1].starts_with("\x1b_Gm=0;"));
    }

    #[test]
    fn the_overlay_lies_in_the_present_folder() {
        assert_eq!(
            default_output(Path::new("/photos/a.b.jpg")),
            PathBuf::from("a.b.overlay.png")
        );
    }
}
