// Code wider than the screen scrolls: by the keyboard, too.
addEventListener("DOMContentLoaded", () => document.querySelectorAll("pre").forEach((code) => { code.tabIndex = 0; }));
