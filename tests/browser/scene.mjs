// What a test works with: the browser, a router of its own or a shared one, and the pages it opened.

import { logIn, openPage, settled } from './browser.mjs';
import { assertClean } from './harness.mjs';

export class Scene {
  constructor(browser, binary, router, artefacts) {
    this.browser = browser;
    this.binary = binary;
    this.router = router;
    this.artefacts = artefacts;
    this.opened = [];
  }

  async page(options = {}, url = this.router.url) {
    const opened = await openPage(this.browser, url, options);
    this.opened.push(opened);
    return opened;
  }

  // A page that is logged in and shows live figures.
  async dashboard(hash = '#/metrics', options = {}) {
    const opened = await this.page(options);
    await logIn(opened.page, this.router.url, { hash });
    await settled(opened.page);
    assertClean(opened.troubles);
    return opened;
  }

  async closePages() {
    for (const { context } of this.opened.splice(0)) await context.close();
  }
}
