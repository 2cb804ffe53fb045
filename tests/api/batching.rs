//! Images that wait while the model is busy, and share its next pass.

use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake::Action;
use crate::support::{App, Reply, png};

/// Requests before the fake has been timed alone often enough to be tried with several.
const TIMED_ALONE: usize = 3;

impl App {
    /// A server whose model has labelled some images, one by one, all of one size and none of them kept.
    async fn warm(max_batch: usize) -> Self {
        let app = Self::start_with(|config| {
            config.engine.max_batch = max_batch;
            config.images.cache_bytes = 0;
        })
        .await;
        for _ in 0..TIMED_ALONE {
            app.segment(&body(8, 0)).await.ok();
        }
        app
    }

    /// Sends requests that wait together while the model is busy with another; their replies.
    async fn segment_at_once(&self, bodies: Vec<Value>) -> Vec<Reply> {
        let busy = self.control.hold_score();
        let first = self.spawn(body(8, 0));
        self.control.entered().await;
        let waiting: Vec<_> = bodies.into_iter().map(|body| self.spawn(body)).collect();
        let all_wait = async {
            while self.metric(r#"maskclip_queue_depth{model="colours"}"#).await != waiting.len() as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all_wait)
            .await
            .expect("they all come to wait");
        drop(busy);
        first.await.unwrap().ok();
        let mut replies = Vec::new();
        for reply in waiting {
            replies.push(reply.await.unwrap());
        }
        replies
    }

    fn spawn(&self, body: Value) -> JoinHandle<Reply> {
        let app = self.clone();
        tokio::spawn(async move { app.segment(&body).await })
    }

    /// Passes so far, and the images in all of them.
    async fn passes(&self) -> [u64; 2] {
        [
            self.metric(r#"maskclip_pass_images_count{model="colours"}"#).await,
            self.metric(r#"maskclip_pass_images_sum{model="colours"}"#).await,
        ]
    }
}

/// An image whose left columns are red, so many of 16, the others blue; `more` pixels wider than that.
fn body(red: u32, more: u32) -> Value {
    let image = png(16 + more, 8, |x| if x < red { [255, 0, 0] } else { [0, 0, 255] });
    json!({"image": BASE64_STANDARD.encode(image), "classes": ["red", "blue"]})
}

#[track_caller]
fn assert_red_pixels(reply: &Reply, red: u32) {
    assert_eq!(reply.ok()["classes"][0]["pixels"], red * 8);
}

#[tokio::test]
async fn images_that_wait_share_a_pass_and_each_gets_its_own_labels() {
    let app = App::warm(8).await;
    let [passes, images] = app.passes().await;
    let replies = app.segment_at_once([4, 8, 12].map(|red| body(red, 0)).to_vec()).await;
    for (reply, red) in replies.iter().zip([4, 8, 12]) {
        assert_red_pixels(reply, red);
    }
    // The one that kept the model busy, and the others together.
    assert_eq!(app.passes().await, [passes + 2, images + 4]);
}

#[tokio::test]
async fn no_more_share_a_pass_than_the_settings_say() {
    for (max_batch, passes_of_four) in [(1, 4), (3, 2)] {
        let app = App::warm(max_batch).await;
        let [passes, images] = app.passes().await;
        app.segment_at_once([4, 8, 12, 4].map(|red| body(red, 0)).to_vec())
            .await;
        assert_eq!(
            app.passes().await,
            [passes + 1 + passes_of_four, images + 5],
            "{max_batch}"
        );
    }
}

#[tokio::test]
async fn an_image_of_another_size_keeps_its_place_in_the_queue() {
    let app = App::warm(8).await;
    let [passes, images] = app.passes().await;
    let replies = app.segment_at_once(vec![body(4, 0), body(4, 8), body(12, 0)]).await;
    for (reply, red) in replies.iter().zip([4, 4, 12]) {
        assert_red_pixels(reply, red);
    }
    assert_eq!(app.passes().await, [passes + 3, images + 4]);
}

#[tokio::test]
async fn one_images_failure_is_not_that_of_those_it_shares_a_pass_with() {
    let app = App::warm(8).await;
    // The look at the image that keeps the model busy; then the first of the pass fails, which is done anew image by image, and the
    // second of these fails again.
    for action in [Action::Answer, Action::Fail, Action::Answer, Action::Fail] {
        app.control.on_look(action);
    }
    let replies = app.segment_at_once([4, 8, 12].map(|red| body(red, 0)).to_vec()).await;
    let [answered, failed] = [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR]
        .map(|status| replies.iter().filter(|reply| reply.status == status).count());
    assert_eq!([answered, failed], [2, 1]);
    for (reply, red) in replies.iter().zip([4, 8, 12]) {
        if reply.status == StatusCode::OK {
            assert_red_pixels(reply, red);
        }
    }
}
