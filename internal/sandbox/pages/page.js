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

for (const button of document.querySelectorAll(".copy")) {
	button.hidden = false;
	button.addEventListener("click", async () => {
		await navigator.clipboard.writeText(button.previousElementSibling.textContent);
		button.textContent = "Copied";
	});
}
