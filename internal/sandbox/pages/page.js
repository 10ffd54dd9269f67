// Says that something is on its way, and takes no second click.
for (const form of document.forms) {
	form.addEventListener("submit", () => {
		const button = form.querySelector("button");
		if (!button) return;
		button.setAttribute("aria-disabled", "true");
		button.textContent = "On its way…";
		form.addEventListener("submit", (e) => e.preventDefault());
	});
}
