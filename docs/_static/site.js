// Code and tables wider than the screen scroll: by the keyboard, too.
addEventListener("DOMContentLoaded", () =>
  document.querySelectorAll("pre, .table-wrapper, .cell_output table").forEach((wide) => { wide.tabIndex = 0; }));
