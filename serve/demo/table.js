// A click on a heading sorts the table by that column; a second click reverses the order.
element.addEventListener("click", (event) => {
  const heading = event.target.closest("th");
  if (!heading) return;
  const column = [...heading.parentNode.children].indexOf(heading);
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.children[column].firstChild?.textContent.trim() ?? "";
  const number = (text) => Number.parseFloat(text.replace(/[>,\s]/g, ""));
  const body = heading.closest("table").tBodies[0];
  const rows = [...body.rows].sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    const difference = number(left) - number(right);
    return Number.isNaN(difference) ? left.localeCompare(right) : difference;
  });
  body.append(...(descending ? rows.reverse() : rows));
});
