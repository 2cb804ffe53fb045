// The client that hey-api makes of the document, unpatched, against the server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { base64, baseUrl, file } from "./flows.js";
import { formDataBodySerializer } from "./generated/hey-api/client/index.js";
import { client } from "./generated/hey-api/client.gen.js";
import {
  deleteImage,
  getImage,
  getVocabulary,
  getVocabularyStatus,
  postImage,
  putVocabulary,
  segment,
  segmentBatch,
} from "./generated/hey-api/index.js";
import type { BatchLine, SegmentBody, SegmentReply } from "./generated/hey-api/index.js";

client.setConfig({ baseUrl });

const classes = ["apple", { name: "banana", synonyms: ["plantain"] }];

test("JSON says where the classes are", async () => {
  const { data, response } = await segment({ body: { image: base64, classes, background: true } });
  assert.equal(response?.status, 200);
  const reply = data as SegmentReply;
  assert.deepEqual(reply.classes.map((one) => one.name), ["apple", "banana"]);
  assert.equal(reply.label_map.format, "png");
});

test("a form says the same", async () => {
  const json = await segment({ body: { image: base64, classes, background: true } });
  // The generator makes a type of the first media type alone; its serialiser of forms takes the parts of the second.
  const form = { image: file(), request: { classes, background: true } };
  const { data } = await segment({
    ...formDataBodySerializer,
    body: form as unknown as SegmentBody,
    headers: { "Content-Type": null },
  });
  assert.deepEqual((data as SegmentReply).classes, (json.data as SegmentReply).classes);
  assert.deepEqual((data as SegmentReply).label_map, (json.data as SegmentReply).label_map);
});

test("COCO's forms have types of their own", async () => {
  const { data } = await segment({
    body: { image: base64, classes, output: { label_map: "polygons", label_maps: ["panoptic"] } },
  });
  const reply = data as SegmentReply;
  const present = reply.classes.filter((one) => one.pixels > 0);
  assert.ok(reply.label_map.format === "polygons");
  assert.deepEqual(reply.label_map.data.map((one) => one.bbox), present.map((one) => one.bbox));
  const panoptic = reply.label_maps?.[0];
  assert.ok(panoptic?.format === "panoptic");
  assert.deepEqual(panoptic.data.segments_info.map((one) => one.class_id), present.map((one) => one.id));
});

test("a batch brings a line for each image", async () => {
  const image = [file(), new File(["none"], "none")];
  const { data } = await segmentBatch({ body: { image, request: { classes } }, parseAs: "text" });
  const lines = (data as unknown as string).trim().split("\n").map((line): BatchLine => JSON.parse(line));
  lines.sort((one, other) => one.index - other.index);
  assert.deepEqual(lines.map((line) => [line.name, line.status]), [["fruit.png", 200], ["none", 422]]);
  assert.equal(lines[1]?.problem?.type, "/problems/undecodable-image");
});

test("an image is left, asked about, and dropped", async () => {
  const left = await postImage({ body: { image: base64 } });
  assert.ok(left.data);
  const path = { id: left.data.image_id };
  assert.equal((await getImage({ path })).data?.width, left.data.width);
  const { data } = await segment({ body: { image_id: left.data.image_id, classes } });
  assert.equal((data as SegmentReply).features_cached, true);
  assert.equal((await deleteImage({ path })).response?.status, 204);
  assert.equal((await getImage({ path })).error?.type, "/problems/image-not-held");
});

test("a vocabulary is defined and read", async () => {
  const path = { name: "hey-api" };
  assert.equal((await putVocabulary({ path, body: { classes: ["apple", "pear"] } })).data?.name, "hey-api");
  assert.deepEqual((await getVocabulary({ path })).data?.classes, ["apple", "pear"]);
  assert.equal(typeof (await getVocabularyStatus({ path })).data?.ready, "boolean");
});

test("an error is a problem", async () => {
  const { error } = await segment({ body: { image: base64, classes, short_side: 1_000_000 } });
  assert.equal(error?.path, "short_side");
});
