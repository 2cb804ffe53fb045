// Any text is a vocabulary or an error. What is read and within the limits is written as a text that is read as the same.

use std::sync::LazyLock;

use maskclip::config::Config;
use maskclip::vocabulary::{VocabularyDefinition, VocabularyLimits, parse_vocabulary, write_vocabulary};

static LIMITS: LazyLock<VocabularyLimits> = LazyLock::new(|| Config::for_testing().limits.vocabulary);

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(read) = parse_vocabulary(text) else {
        return;
    };
    if let Ok(definition) = VocabularyDefinition::new(read, &LIMITS) {
        let written = write_vocabulary(&definition.list, &definition.options);
        let again = parse_vocabulary(&written).expect("what was written is read");
        let again = VocabularyDefinition::new(again, &LIMITS).expect("what was written is within the limits");
        assert_eq!(again, definition, "{written}");
    }
}
