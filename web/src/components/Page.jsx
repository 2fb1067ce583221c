import { useUiState } from '../context.js';
import { t } from '../i18n.js';
import { Banners } from './Banners.jsx';
import { Composer } from './Composer.jsx';
import { Dialogs } from './Dialogs.jsx';
import { Header } from './Header.jsx';
import { ChatList } from './ChatList.jsx';
import { Thread } from './Thread.jsx';
import { Live, Toasts } from './Toasts.jsx';

/** The whole page. The build renders it once into `index.html`, so that the first paint needs no script. */
export function Page() {
  const list = useUiState((ui) => ui.list);
  const drawer = useUiState((ui) => ui.drawer);
  return (
    <div class={`page ${list ? '' : 'no-list'} ${drawer ? 'drawer-open' : ''}`}>
      <a class="skip" href="#message">
        {t('app.skip')}
      </a>
      <ChatList />
      <div class="column">
        <Header />
        <Banners />
        <Thread />
        <Composer />
      </div>
      <Toasts />
      <Live />
      <Dialogs />
    </div>
  );
}
