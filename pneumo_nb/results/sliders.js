for (const [from, to] of LINKS) {
  const source = document.getElementById(from), target = document.getElementById(to);
  const show = () => {
    const place = source.tagName === "SELECT" ? source.selectedIndex : Number(source.value);
    [...target.children].forEach((child, number) => { child.hidden = number !== place; });
    if (source.nextElementSibling) source.nextElementSibling.value = source.value;
  };
  source.addEventListener("input", show);
  show();
}
