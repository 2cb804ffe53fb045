// The types that openapi-typescript makes of the document, unpatched, in openapi-fetch, against the server.

import assert from "node:assert/strict";
import { test } from "node:test";
import createClient from "openapi-fetch";

import { base64, baseUrl, file } from "./flows.js";
import type { components, paths } from "./generated/openapi.js";

type SegmentBody = components["schemas"]["SegmentBody"];

const client = createClient<paths, "application/json" | "application/problem+json">({ baseUrl });

const classes: SegmentBody["classes"] = ["apple", { name: "banana", synonyms: ["plantain"] }];

/** A form: files as they are, and everything else as JSON. */
function formData(parts: Record<string, unknown>): FormData {
  const form = new FormData();
  for (const [name, part] of Object.entries(parts)) {
    form.append(name, part instanceof Blob ? part : JSON.stringify(part));
  }
  return form;
}

test("JSON and a form say the same", async () => {
  const json = await client.POST("/v1/segment", { body: { image: base64, classes, background: true } });
  assert.equal(json.response.status, 200);
  assert.ok(json.data);
  assert.deepEqual(json.data.classes.map((one) => one.name), ["apple", "banana"]);
  const map = json.data.label_map;
  assert.ok(map.format === "png" && map.data.length > 0);

  const body = { image: file() as unknown as string, request: { classes, background: true } };
  const form = await client.POST("/v1/segment", { body, bodySerializer: formData });
  assert.deepEqual(form.data?.classes, json.data.classes);
  assert.deepEqual(form.data?.label_map, json.data.label_map);
});

test("a form of the label map has the type that its tag says", async () => {
  const { data } = await client.POST("/v1/segment", {
    body: { image: base64, classes, output: { label_map: "coco-rle", label_maps: ["png-grey"], probability_maps: "all" } },
  });
  assert.ok(data && data.label_map.format === "coco-rle");
  const masks: components["schemas"]["CocoMask"][] = data.label_map.data;
  assert.deepEqual(masks.map((mask) => mask.class_id), data.classes.filter((one) => one.pixels > 0).map((one) => one.id));
  assert.equal(data.label_maps?.[0]?.format, "png-grey");
  assert.equal(data.probability_maps?.length, 2);
});

test("COCO's forms have types of their own", async () => {
  const { data } = await client.POST("/v1/segment", {
    body: { image: base64, classes, output: { label_map: "polygons", label_maps: ["panoptic"] } },
  });
  assert.ok(data && data.label_map.format === "polygons");
  const polygons: components["schemas"]["CocoPolygons"][] = data.label_map.data;
  const present = data.classes.filter((one) => one.pixels > 0);
  assert.deepEqual(polygons.map((one) => one.area), present.map((one) => one.pixels));
  assert.ok(polygons.every((one) => one.segmentation.every((line) => line.length >= 8)));
  const panoptic = data.label_maps?.[0];
  assert.ok(panoptic?.format === "panoptic" && panoptic.data.png.length > 0);
  assert.deepEqual(panoptic.data.segments_info.map((one) => one.id), present.map((one) => one.id + 1));
});

test("an image is left, asked about, and dropped", async () => {
  const left = await client.POST("/v1/images", { body: { image: base64 } });
  assert.equal(left.response.status, 201);
  assert.ok(left.data);
  const params = { path: { id: left.data.image_id } };
  assert.equal((await client.GET("/v1/images/{id}", { params })).data?.width, left.data.width);
  const asked = await client.POST("/v1/segment", { body: { image_id: left.data.image_id, classes } });
  assert.equal(asked.data?.features_cached, true);
  assert.equal((await client.DELETE("/v1/images/{id}", { params })).response.status, 204);
  const gone = await client.GET("/v1/images/{id}", { params });
  assert.equal(gone.error?.type, "/problems/image-not-held");
});

test("a vocabulary is defined and read", async () => {
  const params = { path: { name: "openapi-fetch" } };
  const defined = await client.PUT("/v1/vocabularies/{name}", { params, body: { classes: ["apple", "pear"] } });
  assert.equal(defined.data?.name, "openapi-fetch");
  const read = await client.GET("/v1/vocabularies/{name}", { params });
  assert.deepEqual(read.data?.classes, ["apple", "pear"]);
  const status = await client.GET("/v1/vocabularies/{name}/status", { params });
  assert.equal(typeof status.data?.ready, "boolean");
});

test("an error is a problem", async () => {
  const { error, response } = await client.POST("/v1/segment", { body: { image: base64, classes, short_side: 1_000_000 } });
  assert.equal(response.status, 422);
  assert.equal(error?.path, "short_side");
  assert.equal(error?.limit?.name, "limits.max_short_side");
});
