"use strict";
const $ = (id) => document.getElementById(id);
let photo = null;

function say(text, error) {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
}

function element(tag, text, parent, attributes) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (parent) parent.append(made);
  return made;
}

function take(file) {
  photo = file;
  $("named").textContent = file ? file.name : "Drop a photo here, or choose one";
  $("go").disabled = !file;
}

async function answer(path, options) {
  const response = await fetch(path, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
  return found;
}

async function choose() {
  try {
    const about = await answer("/network?name=" + encodeURIComponent($("network").value));
    $("layer").replaceChildren();
    for (const name of about.layers) element("option", name, $("layer"));
    $("layer").value = about.layer;
    $("known").replaceChildren();
    for (const name of about.classes) element("option", "", $("known"), { value: name });
  } catch (error) {
    say(error.message, true);
  }
}

function show(found) {
  $("seen").textContent = found.network + " at " + found.layer + " sees " + found.top.map(([n, p]) => n + " (" + p + ")").join(", ");
  $("maps").replaceChildren();
  const original = element("figure", "", $("maps"));
  element("img", "", original, { src: found.photo, alt: "the photo" });
  element("figcaption", "the photo", original);
  const body = $("numbers").tBodies[0];
  body.replaceChildren();
  for (const map of found.maps) {
    const figure = element("figure", "", $("maps"));
    element("img", "", figure, { src: map.picture, alt: map.title + " for " + map.class });
    const caption = element("figcaption", map.title + ": " + map.class + ", " + map.value, figure);
    for (const note of [map.empty && "empty: " + map.empty, map.doubt]) if (note) element("span", note, caption, { class: "note" });
    const row = element("tr", "", body);
    for (const text of [map.title, map.class, map.value, map.logit, map.gap, map.milliseconds]) element("td", text, row);
  }
  $("code").textContent = found.code;
  $("result").hidden = false;
}

$("photo").addEventListener("change", () => take($("photo").files[0]));
for (const kind of ["dragenter", "dragover"]) $("drop").addEventListener(kind, (e) => { e.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) $("drop").addEventListener(kind, (e) => { e.preventDefault(); $("drop").classList.remove("over"); });
$("drop").addEventListener("drop", (e) => take(e.dataTransfer.files[0]));
$("network").addEventListener("change", choose);
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const data = new FormData($("form"));
  data.set("photo", photo);
  data.set("methods", data.getAll("method").join(" "));
  data.delete("method");
  $("go").disabled = true;
  say("Explaining ...");
  try {
    show(await answer("/explain", { method: "POST", body: data }));
    say("");
  } catch (error) {
    say(error.message, true);
  }
  $("go").disabled = !photo;
});
choose();
