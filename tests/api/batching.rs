//! Images that wait while the model is busy and share its next pass.

use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake::Action;
use crate::support::{App, Reply, png};

/// Number of single passes that must be timed before a pass with several images is tried.
const TIMED_ALONE: usize = 3;

impl App {
    /// Starts a server whose model has labelled images of one size one by one. The server keeps no images or features.
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

    /// Sends requests that wait together while the model is busy with another one. Returns their replies.
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
            .expect("all requests join the queue in time");
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

    /// Returns the number of passes so far, and the number of images in all of them.
    async fn passes(&self) -> [u64; 2] {
        [
            self.metric(r#"maskclip_pass_images_count{model="colours"}"#).await,
            self.metric(r#"maskclip_pass_images_sum{model="colours"}"#).await,
        ]
    }
}

/// Returns a request with an image of 16 + `more` columns. The first `red` columns are red, the others blue.
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
    // One pass for the image that kept the model busy, and one pass for all others.
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
    // First the image that keeps the model busy. Then the shared pass fails, so the images are looked at one by one,
    // and the second of these looks fails again.
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
