// Example images. The component's value is the name of the image that was clicked.
element.addEventListener("click", (event) => {
  const name = event.target.closest("button")?.dataset.example;
  if (!name) return;
  props.value = name;
  trigger("input");
});
