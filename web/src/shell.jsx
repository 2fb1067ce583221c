/** Run by the build: the page as it looks before anything is known, for `index.html`. */

import { renderToString } from 'preact-render-to-string';

import { Api } from './api.js';
import { App } from './app.js';
import { Page } from './components/Page.jsx';
import { AppContext, UiContext } from './context.js';
import { t } from './i18n.js';
import { UiStore } from './ui.js';

export const noscript = t('app.noscript');
export const description = t('app.description');

export function shell() {
  return renderToString(
    <AppContext.Provider value={new App(new Api())}>
      <UiContext.Provider value={new UiStore()}>
        <Page />
      </UiContext.Provider>
    </AppContext.Provider>,
  );
}
