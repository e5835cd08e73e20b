// Applies the viewer's choice of light or dark before anything is drawn. Runs in the page's head, so
// it must stay small; `main.js` has the button.
(() => {
  let choice = null;
  try {
    choice = localStorage.getItem('llm-router.theme');
  } catch {
    // Without storage the system decides.
  }
  if (choice === 'light' || choice === 'dark') document.documentElement.dataset.theme = choice;
})();
