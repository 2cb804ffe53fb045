//! Panics as text.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The text that a panic was raised with.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Runs a body and returns its result.
///
/// # Errors
/// The message of a panic, when the body panics. Whatever the body changed until then stays changed.
pub(crate) fn catch_panic<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| panic_message(&*panic).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message_whatever_it_was_raised_with() {
        assert_eq!(catch_panic(|| 3), Ok(3));
        assert_eq!(
            catch_panic(|| panic!("as it stands")),
            Err::<(), _>("as it stands".to_owned())
        );
        assert_eq!(catch_panic(|| panic!("{}", 17)), Err::<(), _>("17".to_owned()));
        let other = catch_panic(|| std::panic::panic_any(17));
        assert_eq!(other, Err::<(), _>("a panic without a message".to_owned()));
    }
}
