// Pictures to click: the name of the one that was clicked is the component's value.
element.addEventListener("click", (event) => {
  const name = event.target.closest("button")?.dataset.example;
  if (!name) return;
  props.value = name;
  trigger("input");
});
