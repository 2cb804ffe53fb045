//! Small helpers that belong to no room: caches with a limit in bytes, locks, seeded random numbers, conversions of
//! lengths, checks of settings, look-up of values by name and the form of names, text from outside, excerpts of texts,
//! work on threads that may block, texts of panics, addresses with passwords, regular files alone, the walk over folders,
//! files that a group shares, files of lines that grow, and files that are written as a whole.

mod blocking;
mod byte_lru;
mod exceeded_limit;
mod excerpt;
mod folder;
mod group;
mod lengths;
mod line_file;
mod lock;
mod names;
mod panics;
mod plain_text;
mod private_url;
mod random;
mod regular_file;
mod settings;
mod shared_lru;
mod whole_file;

pub(crate) use blocking::run_blocking;
pub(crate) use byte_lru::ByteLru;
pub use exceeded_limit::{ExceededLimit, LimitValue};
pub(crate) use excerpt::{excerpt, without_middle};
pub(crate) use folder::{FoundFile, WalkError, check_pattern, find_files, find_files_outside, find_matches};
pub(crate) use group::{create_shared_folders, share_with_group};
pub(crate) use lengths::{to_i64, to_usize};
pub(crate) use line_file::{LineError, LineFile, ReadLines};
pub(crate) use lock::lock;
pub(crate) use names::{is_plain_name, named};
pub(crate) use panics::{catch_panic, panic_message};
pub(crate) use plain_text::{plain_json, plain_text, visible};
pub use private_url::PrivateUrl;
pub(crate) use private_url::without_secrets;
pub(crate) use random::Random;
pub(crate) use regular_file::{open_regular_file, read_regular_file, read_regular_text};
pub use settings::OutOfRange;
pub(crate) use settings::{at_least_one, in_range};
pub(crate) use shared_lru::SharedLru;
pub(crate) use whole_file::{WholeFile, remove_remainders, replace_file, sync_folder_of, write_whole_file};
