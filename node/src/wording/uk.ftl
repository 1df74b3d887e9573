voice-call = Вам телефонує { $name }
video-call = Відеодзвінок: { $name }
message =
    { $count ->
        [one] { $count } повідомлення від: { $name }
        [few] { $count } повідомлення від: { $name }
        [many] { $count } повідомлень від: { $name }
       *[other] { $count } повідомлення від: { $name }
    }
missed-call =
    { $count ->
        [one] { $count } пропущений дзвінок: { $name }
        [few] { $count } пропущені дзвінки: { $name }
        [many] { $count } пропущених дзвінків: { $name }
       *[other] { $count } пропущеного дзвінка: { $name }
    }
contact-request = { $name } хоче додати вас до контактів
voicemail =
    { $count ->
        [one] { $count } голосове повідомлення від: { $name }
        [few] { $count } голосові повідомлення від: { $name }
        [many] { $count } голосових повідомлень від: { $name }
       *[other] { $count } голосового повідомлення від: { $name }
    }
file =
    { $count ->
        [one] { $name } надсилає вам { $count } файл
        [few] { $name } надсилає вам { $count } файли
        [many] { $name } надсилає вам { $count } файлів
       *[other] { $name } надсилає вам { $count } файлу
    }
mail = Лист: { $name }
self-test = Перевірне сповіщення надійшло
notice = Нове від: { $name }
shown-on = { $event } (показано на пристрої { $device })
accept = Прийняти
decline = Відхилити
